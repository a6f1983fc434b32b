"""Quality after compression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.models.loading import build_from_config, load_tokenizer
from fastserve_ray.spec import PruneStep, QuantizeStep
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task
from fastserve_ray.tune.compressed import compressed_metrics
from tests.training.tiny import CONFIGS, write_dataset

if TYPE_CHECKING:
    from pathlib import Path


def test_metrics_are_those_of_the_compressed_model(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path / "data", "text-generation")
    dataset = PreparedDataset.open(folder)
    model = build_from_config(CONFIGS["llama"], "text-generation", load_tokenizer(folder / "tokenizer"), seed=1)
    steps = (PruneStep(kind="prune", sparsity=0.9), QuantizeStep(kind="quantize"))
    task = load_task("text-generation")
    before = evaluate(model, task, dataset.validation, batch_size=4, pad_token_id=0)
    found = compressed_metrics(model, steps, task="text-generation", dataset=folder, batch_size=4)
    assert found["eval_loss"] != before["eval_loss"]
    assert found == pytest.approx(evaluate(model, task, dataset.validation, batch_size=4, pad_token_id=0))
    assert sum(int((buffer == 0).sum()) for name, buffer in model.named_buffers() if name.endswith("weight")) > 0
