"""Packed documents in training: apart, and said where that costs time."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.tasks.packed import MIXES_DOCUMENTS
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.tiny import train_spec

if TYPE_CHECKING:
    from pathlib import Path

CONFIGS: dict[str, dict[str, Any]] = {
    "llama": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2},
}


@pytest.mark.parametrize("family", CONFIGS)
def test_a_model_that_gets_documents_one_a_row_is_named_once(family: str, tmp_path: Path) -> None:
    texts = [f"Text {number} is short." for number in range(30)]
    (tmp_path / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    model = {"config": {"model_type": family, **CONFIGS[family]}, "tokenizer": {"vocab_size": 300}}
    data = {"train": {"path": str(tmp_path / "corpus.jsonl")}, "max_length": 64}
    spec = spec_from_dict({"name": "tiny", "model": model, "data": data, "train": {}})
    (tmp_path / "data").mkdir()
    prepare_dataset(spec, tmp_path / "data")
    warnings: list[str] = []
    job = TrainJob(spec.model, train_spec(max_steps=2), tmp_path / "data")
    train_in_process(job, Hooks(warn=warnings.append), num_threads=1)
    assert warnings == ([] if family == "llama" else [MIXES_DOCUMENTS])
