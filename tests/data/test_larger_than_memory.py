"""Data ten times as large as the memory that may be used for it: prepared, and read for an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

if TYPE_CHECKING:
    from pathlib import Path

ALLOWED_BYTES = 30 * 2**20
"""By which the resident memory of the process may grow, its mapped pages counted."""
ROWS = 160_000
ROW_CHARACTERS = 2_000

PROGRAM = """
import json, sys
from pathlib import Path
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.training.batches import BatchPlan

def work(spec, folder):
    folder.mkdir()
    prepare_dataset(spec_from_dict(spec), folder)
    yield "prepare"
    dataset = PreparedDataset.open(folder)
    plan = BatchPlan(len(dataset.train), 32, seed=1)
    tokens = characters = 0
    for step in range(plan.steps_per_epoch):
        for index in plan.global_batch(step):
            row = dataset.train[int(index)]
            tokens += len(row["input_ids"])
            characters += len(row["text"])
    assert tokens == dataset.info.num_tokens
    yield characters

def memory(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) * 1024

specs, out = json.loads(sys.argv[1]), Path(sys.argv[2])
list(work(specs[0], out / "small"))
found = {}
before = memory("VmRSS")
for name in work(specs[1], out / "large"):
    found[name if name == "prepare" else "epoch"] = memory("VmHWM") - before
    Path("/proc/self/clear_refs").write_text("5")
found["characters"] = name
print(json.dumps(found))
"""


def write_corpus(path: Path, rows: int) -> None:
    """Long words: they cost much to hold and little to look up."""
    words = ["".join(chr(97 + (index * 7 + at) % 26) for at in range(99)) for index in range(50)]
    drawn = np.random.default_rng(0).integers(0, 50, (997, ROW_CHARACTERS // 100))
    texts = [" ".join(words[index] for index in row) for row in drawn]
    with path.open("w") as file:
        for number in range(rows):
            file.write(json.dumps({"text": texts[number % 997], "label": number % 2}) + "\n")


def write_tokenizer(folder: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "<pad>": 1, "<eos>": 2}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="peak memory is read from Linux's /proc")
def test_memory_does_not_grow_with_the_data(tmp_path: Path) -> None:
    write_tokenizer(tmp_path / "tokenizer")
    specs = []
    for name, rows in (("small", 2_000), ("large", ROWS)):
        write_corpus(tmp_path / f"{name}.jsonl", rows)
        specs.append(
            {
                "name": "tiny",
                "model": {
                    "task": "text-classification",
                    "config": {"model_type": "bert"},
                    "tokenizer": str(tmp_path / "tokenizer"),
                },
                "data": {
                    "train": {"path": str(tmp_path / f"{name}.jsonl")},
                    "validation": {"fraction": 0.01},
                    "max_length": 32,
                },
                "train": {},
            }
        )
    assert (tmp_path / "large.jsonl").stat().st_size > 10 * ALLOWED_BYTES
    environment = {**os.environ, "RAYON_NUM_THREADS": "1"}
    arguments = [sys.executable, "-c", PROGRAM, json.dumps(specs), str(tmp_path)]
    done = subprocess.run(arguments, check=True, env=environment, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["characters"] > 10 * ALLOWED_BYTES
    assert pa.ipc.open_file(tmp_path / "large" / "train.arrow").num_record_batches > 100
    assert found["prepare"] < ALLOWED_BYTES, found
    assert found["epoch"] < ALLOWED_BYTES, found
