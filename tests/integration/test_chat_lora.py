"""A chat fine-tune with LoRA from the command line: what is served is what was trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
import yaml

from fastserve_ray.data.tokenizer import train_bpe
from fastserve_ray.models.loading import build_from_config, load_pretrained

ROOT = Path(__file__).parents[2]
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
TARGETS = ["q_proj", "v_proj", "up_proj", "down_proj"]
ANIMALS = ("fox", "ox", "owl", "eel", "hare", "crow", "toad", "wasp")
CHATS = [
    [
        {"role": "user", "content": f"Where does the {animal} number {number} sleep?"},
        {"role": "assistant", "content": f"The {animal} sleeps in the wood."},
    ]
    for animal in ANIMALS
    for number in range(8)
]


def save_base(folder: Path) -> None:
    texts = [message["content"] for chat in CHATS for message in chat]
    tokenizer = train_bpe([pa.array(texts)], 400, "text-generation")
    build_from_config(CONFIG, "text-generation", tokenizer, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_the_served_model_is_the_trained_one(tmp_path: Path) -> None:
    save_base(tmp_path / "base")
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    spec = {
        "name": "chat",
        "storage": str(tmp_path / "runs"),
        "model": {"base": str(tmp_path / "base")},
        "data": {
            "train": {"path": str(tmp_path / "chats.jsonl")},
            "columns": {"messages": "messages"},
            "max_length": 96,
        },
        "train": {
            "max_steps": 40,
            "batch_size": 4,
            "learning_rate": 2e-2,
            "parallel": {"workers": 2},
            "adapter": {"kind": "lora", "lora_r": 8, "target_modules": TARGETS},
        },
        "serve": {"port": 0},
    }
    (tmp_path / "chat.yaml").write_text(yaml.safe_dump(spec))
    command = [
        sys.executable,
        "-m",
        "fastserve_ray.cli.main",
        "run",
        str(tmp_path / "chat.yaml"),
        "--no-wait",
        "--json",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    trained, verified = result["metrics"]["train"], result["metrics"]["verify"]
    assert trained["eval_accuracy"] > 0.5
    assert verified["eval_loss"] == pytest.approx(trained["eval_loss"], abs=1e-4)
    assert verified["golden_fidelity"] > 0.9
    assert isinstance(result["served"]["answer"], str)

    folder = next((tmp_path / "runs" / "artifacts").glob("train-*"))
    assert not list(folder.rglob("adapter*"))
    loaded: Any = load_pretrained(folder, "text-generation")
    base: Any = load_pretrained(tmp_path / "base", "text-generation")
    assert loaded.tokenizer.chat_template == base.tokenizer.chat_template
    before = dict(base.model.named_parameters())
    changed = {name for name, weight in loaded.model.named_parameters() if not torch.equal(weight, before[name])}
    assert {name.split(".")[-2] for name in changed} == set(TARGETS)
