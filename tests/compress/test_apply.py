"""A folder compressed step by step, with its report."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.compress.apply import compress_model_folder
from fastserve_ray.compress.table import STEPS
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import CompressionError
from fastserve_ray.models.compressed import is_compressed
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import PruneStep, QuantizeStep
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.compress.report import CompressionReport
    from tests.compress.trained import Trained

PRUNE = PruneStep(kind="prune", sparsity=0.3)
QUANTIZE = QuantizeStep(kind="quantize", scheme="int8-dynamic")


def compress(trained: Trained, out: Path, *steps: Any, **options: Any) -> CompressionReport:
    out.mkdir(exist_ok=True)
    rows = PreparedDataset.open(trained.dataset).validation
    return compress_model_folder(trained.model, steps, task=trained.task, rows=rows, pad_token_id=0, out=out, **options)


def test_every_step_is_measured_and_the_last_model_is_what_was_written(trained: Trained, tmp_path: Path) -> None:
    messages = []
    report = compress(trained, tmp_path, PRUNE, QUANTIZE, progress=lambda **fields: messages.append(fields["message"]))
    assert [model.name for model in report.models] == [
        "parent",
        "0: prune magnitude sparsity 0.3",
        "1: quantize int8-dynamic",
    ]
    parent, pruned, quantized = report.models
    assert parent.num_weights == pruned.num_weights == quantized.num_weights
    assert parent.tensor_bytes == pruned.tensor_bytes > quantized.tensor_bytes
    assert set(pruned.zeros_by_layer.values()) != set(parent.zeros_by_layer.values())
    assert all(abs(part - 0.3) < 1e-3 for part in pruned.zeros_by_layer.values())
    assert report.disk_bytes_after == (tmp_path / "model.safetensors").stat().st_size < report.disk_bytes_before
    assert all(model.latency_ms > 0 for model in report.models)
    assert "prune (1 of 2)" in messages

    task, rows = load_task(trained.task), PreparedDataset.open(trained.dataset).validation
    for folder, figures in ((trained.model, parent), (tmp_path, quantized)):
        model = load_pretrained(folder, trained.task).model
        assert evaluate(model, task, rows, batch_size=32, pad_token_id=0) == figures.metrics
    assert parent.metrics["eval_accuracy"] > 0.9  # there was something to lose
    assert json.loads((tmp_path / "compression_report.json").read_text())["models"][2]["metrics"] == quantized.metrics
    assert (tmp_path / "compression_report.md").exists()


def test_a_pruned_model_is_a_plain_folder(trained: Trained, tmp_path: Path) -> None:
    report = compress(trained, tmp_path, PRUNE)
    assert not is_compressed(tmp_path)
    assert report.figures()["size_ratio"] == pytest.approx(1.0, abs=1e-3)
    state = load_pretrained(tmp_path, trained.task).model.state_dict()
    zeros = report.result.zeros_by_layer
    assert {name: float((state[f"{name}.weight"] == 0).double().mean()) for name in zeros} == zeros


def test_the_parent_folder_is_left_alone(trained: Trained, tmp_path: Path) -> None:
    before = {file.name: file.read_bytes() for file in trained.model.iterdir()}
    compress(trained, tmp_path, QUANTIZE)
    assert {file.name: file.read_bytes() for file in trained.model.iterdir()} == before


def test_a_compressed_parent_is_refused(trained: Trained, tmp_path: Path) -> None:
    compress(trained, tmp_path / "once", QUANTIZE)
    again = trained._replace(model=tmp_path / "once")
    with pytest.raises(CompressionError, match="compressed already"):
        compress(again, tmp_path / "twice", QUANTIZE)


def test_compression_is_deterministic(trained: Trained, tmp_path: Path) -> None:
    for name in ("a", "b"):
        compress(trained, tmp_path / name, PRUNE, QUANTIZE)
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert weights[0] == weights[1]


def test_every_step_of_the_table_resolves() -> None:
    assert set(STEPS) == {"prune", "quantize"}
    assert all(callable(STEPS.load(name)) for name in STEPS)


def test_gradients_play_no_part(trained: Trained, tmp_path: Path) -> None:
    compress(trained, tmp_path, QUANTIZE)
    model = load_pretrained(tmp_path, trained.task).model
    assert all(tensor.grad_fn is None for tensor in model.state_dict().values())
    assert all(buffer.dtype in {torch.int8, torch.float32, torch.int64} for buffer in model.buffers())
