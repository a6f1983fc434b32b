"""Counts and estimates against the real models."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.plan.architecture import read_architecture
from fastserve_ray.plan.model_size import model_size
from fastserve_ray.plan.parameters import count_parameters
from fastserve_ray.spec.model import ModelSpec, TokenizerSpec

if TYPE_CHECKING:
    from pathlib import Path

LLAMA: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40}
BERT = {
    "model_type": "bert",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 40,
}
DISTILBERT = {"model_type": "distilbert", "vocab_size": 96, "dim": 32, "n_heads": 4, "n_layers": 2, "hidden_dim": 48}
GENERATION, CLASSIFICATION, MASKED = "text-generation", "text-classification", "masked-lm"


@pytest.mark.parametrize(
    ("config", "task"),
    [
        (LLAMA, GENERATION),
        (LLAMA, CLASSIFICATION),
        ({**LLAMA, "num_key_value_heads": 2, "tie_word_embeddings": True}, GENERATION),
        ({**LLAMA, "head_dim": 16, "attention_bias": True, "mlp_bias": True}, GENERATION),
        (GPT2, GENERATION),
        (GPT2, CLASSIFICATION),
        ({**GPT2, "n_inner": 50}, GENERATION),
        ({"model_type": "gpt2", "vocab_size": 96, "hidden_size": 24, "num_hidden_layers": 1}, GENERATION),
        (BERT, CLASSIFICATION),
        (BERT, GENERATION),
        ({**BERT, "type_vocab_size": 1}, CLASSIFICATION),
        (DISTILBERT, CLASSIFICATION),
        (BERT, MASKED),
        (DISTILBERT, MASKED),
    ],
)
def test_the_count_is_torchs_count(config: dict[str, Any], task: str) -> None:
    import torch
    import transformers

    from fastserve_ray.tasks.table import load_task

    settings = {key: value for key, value in config.items() if key != "model_type"}
    built = transformers.AutoConfig.for_model(config["model_type"], **settings, num_labels=3)
    kind = load_task(task).auto_class_of(config["model_type"])
    with torch.device("meta"):
        model = getattr(transformers, kind).from_config(built)
    architecture = read_architecture(config)
    assert architecture is not None
    assert count_parameters(architecture, task, num_labels=3) == sum(item.numel() for item in model.parameters())


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "distilbert"])
def test_defaults_are_those_of_transformers(name: str) -> None:
    import transformers

    defaults = transformers.AutoConfig.for_model(name)
    given = {"model_type": name, **{key: value for key, value in defaults.to_dict().items() if value is not None}}
    assert read_architecture({"model_type": name}) == read_architecture(given)


def test_a_model_type_that_is_not_counted_says_so() -> None:
    size = model_size(ModelSpec(config={"model_type": "mamba"}))
    assert size.num_parameters is None
    assert "mamba" in (size.reason or "")


def test_the_vocabulary_is_the_tokenizers() -> None:
    config = {key: value for key, value in LLAMA.items() if key != "vocab_size"}
    small = model_size(ModelSpec(config=config, tokenizer=TokenizerSpec(vocab_size=500)))
    large = model_size(ModelSpec(config=config))
    assert small.num_parameters is not None
    assert large.num_parameters == small.num_parameters + 2 * 32 * (4096 - 500)
    assert model_size(ModelSpec(config=config, tokenizer="some/tokenizer")).num_parameters is None


def test_a_folder_is_counted_from_its_headers(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    (tmp_path / "config.json").write_text(json.dumps(BERT))
    save_file({"a": torch.zeros(3, 5), "b": torch.zeros(())}, tmp_path / "model-1.safetensors")
    save_file({"c": torch.zeros(7, dtype=torch.bfloat16)}, tmp_path / "model-2.safetensors", metadata={"format": "pt"})
    size = model_size(ModelSpec(base=str(tmp_path)))
    assert size.num_parameters == 15 + 1 + 7
    assert size.architecture is not None
    assert size.architecture.hidden_size == 32


def test_a_folder_without_safetensors_is_counted_from_its_config(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    architecture = read_architecture(GPT2)
    assert architecture is not None
    assert model_size(ModelSpec(base=str(tmp_path))).num_parameters == count_parameters(architecture, GENERATION)


@pytest.mark.parametrize("content", ["{", "[]"])
def test_a_damaged_folder_is_unknown_with_a_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    size = model_size(ModelSpec(base=str(tmp_path)))
    assert size.num_parameters is None
    assert str(tmp_path) in (size.reason or "")


def test_a_damaged_header_is_unknown_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GPT2))
    for content in (b"\xff" * 16, b"abc"):
        (tmp_path / "model.safetensors").write_bytes(content)
        assert model_size(ModelSpec(base=str(tmp_path))).num_parameters is None


def test_a_hub_model_is_read_from_the_cache_if_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    unknown = model_size(ModelSpec(base="org/model"))
    assert unknown.num_parameters is None
    assert "not on this machine" in (unknown.reason or "")
    repository = tmp_path / "models--org--model"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "snapshots" / "abc" / "config.json").write_text(json.dumps(GPT2))
    assert model_size(ModelSpec(base="org/model")).num_parameters is not None
