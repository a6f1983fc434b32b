"""Compress a model folder step by step and measure every step against the parent."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.compress.measure import (
    count_weights,
    first_rows,
    interleaved_latencies,
    tensor_bytes,
    zeros_by_layer,
)
from fastserve_ray.compress.report import CompressionReport, ModelFigures
from fastserve_ray.compress.table import apply_step
from fastserve_ray.errors import CompressionError
from fastserve_ray.events.progress import Progress, silent
from fastserve_ray.models.compressed import is_compressed, save_compressed
from fastserve_ray.models.loading import has_adapter, load_pretrained, save_model
from fastserve_ray.spec import CompressStep, QuantizeStep
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from fastserve_ray.tasks.protocol import Row, Task

EVALUATION_BATCH = 32
LATENCY_ROWS = 8


def compress_model_folder(
    folder: Path,
    steps: Sequence[CompressStep],
    *,
    task: str,
    rows: Sequence[Row],
    pad_token_id: int,
    out: Path,
    progress: Progress = silent,
) -> CompressionReport:
    """Apply ``steps`` in order and write the compressed model with its report to ``out``.

    Args:
        folder: of the trained parent.
        rows: validation rows that quality is measured on, all of them.
        pad_token_id: of the prepared rows.

    Raises:
        CompressionError: a step does not fit the model, or the parent is compressed already.
    """
    if is_compressed(folder):
        raise CompressionError("the model is compressed already", value=str(folder), key="compress")
    if has_adapter(folder):
        raise CompressionError("the model needs its learned prompt", value=str(folder), key="train.adapter.kind")
    loaded = load_pretrained(folder, task)
    models: dict[str, Any] = {"parent": loaded.model}
    model = loaded.model
    for number, step in enumerate(steps):
        progress(step=number, total=len(steps), message=f"{step.kind} ({number + 1} of {len(steps)})")
        model = copy.deepcopy(model)
        apply_step(model, step)
        models[f"{number}: {_describe(step)}"] = model
    scheme = next((step.scheme for step in steps if isinstance(step, QuantizeStep)), None)
    if scheme is None:
        save_model(model, loaded.tokenizer, out)
    else:
        save_compressed(model, loaded.tokenizer, out, scheme=scheme)
    report = CompressionReport(
        **_measure(models, load_task(task), rows, pad_token_id=pad_token_id, progress=progress),
        num_threads=torch.get_num_threads(),
        disk_bytes_before=_weight_bytes(folder),
        disk_bytes_after=_weight_bytes(out),
    )
    report.write(out)
    return report


def _measure(
    models: Mapping[str, Any], task: Task, rows: Sequence[Row], *, pad_token_id: int, progress: Progress
) -> dict[str, Any]:
    """Figures of every model, and the batch that latency was measured on, as fields of the report."""
    batch = task.collate(first_rows(rows, LATENCY_ROWS), pad_token_id)
    progress(step=0, total=None, message="measuring latency")
    latencies = interleaved_latencies(models, batch)
    figures = []
    for number, (name, model) in enumerate(models.items()):
        progress(step=number, total=len(models), message=f"measuring the quality of {name}")
        metrics = evaluate(model, task, rows, batch_size=EVALUATION_BATCH, pad_token_id=pad_token_id)
        num_weights, num_nonzero = count_weights(model)
        figures.append(
            ModelFigures(
                name=name,
                tensor_bytes=tensor_bytes(model),
                num_weights=num_weights,
                num_nonzero=num_nonzero,
                zeros_by_layer=zeros_by_layer(model),
                latency_ms=latencies[name],
                metrics=metrics,
            )
        )
    return {"models": tuple(figures), "latency_batch": tuple(batch["input_ids"].shape)}


def _describe(step: CompressStep) -> str:
    if isinstance(step, QuantizeStep):
        return f"quantize {step.scheme}"
    goal = f"sparsity {step.sparsity}" if step.sparsity is not None else f"threshold {step.threshold}"
    return f"prune {step.method} {goal}"


def _weight_bytes(folder: Path) -> int:
    weights = [file for pattern in ("*.safetensors", "*.bin") for file in folder.glob(pattern)]
    return sum(file.stat().st_size for file in weights)
