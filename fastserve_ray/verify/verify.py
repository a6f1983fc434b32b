"""Verify a model folder before it is served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import VerificationError
from fastserve_ray.events.progress import Progress, silent
from fastserve_ray.models.loading import has_adapter, load_pretrained
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task
from fastserve_ray.verify.gate import judge
from fastserve_ray.verify.golden import NOT_SERVED, ROUNDING, load_as_served, replay
from fastserve_ray.verify.report import VerificationResult

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fastserve_ray.models.loading import LoadedModel
    from fastserve_ray.spec import EngineSpec, VerifySpec
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.tasks.protocol import Row

EVALUATION_BATCH = 32

_LOST_QUALITY = (
    "Compress less (a lower sparsity, scheme: int8-weight-only, exclude: [...]), or allow more at the verify key above."
)
_WRONG_ENGINE = "The engine computes this model wrongly: take another engine or dtype, and report it as a defect."


def verify_model(
    folder: Path,
    parent: Path | None,
    spec: VerifySpec,
    *,
    task: TaskName,
    dataset: Path,
    parent_metrics: Mapping[str, float] | None,
    engine_spec: EngineSpec,
    num_shards: int = 1,
    out: Path,
    progress: Progress = silent,
) -> VerificationResult:
    """Measure the model as it will be served, replay the golden inputs, and write the report to ``out``.

    Args:
        folder: of the model to serve.
        parent: folder of the trained parent; None when the model is the trained one itself.
        dataset: the prepared dataset, whose validation rows judge.
        num_shards: of the engine that replays.
        parent_metrics: ``eval_*`` of the parent as its own stage measured them; None or incomplete: measured here.

    Returns:
        The result, passed or not; see ``require_passed``.
    """
    prepared = PreparedDataset.open(dataset)
    progress(step=0, total=3, message="measuring the model as it will be served")
    metrics = _evaluate(load_as_served(folder, task, engine_spec), task, prepared)
    changes_weights = engine_spec.int8_output_layer
    expected = metrics if parent is None and not changes_weights else dict(parent_metrics or {})
    if any(name not in expected for name in spec.max_drop):
        progress(step=1, total=3, message="measuring the trained parent")
        expected = _evaluate(load_pretrained(parent or folder, task), task, prepared)
    golden = NOT_SERVED
    if is_served(folder, task):
        progress(step=2, total=3, message=f"replaying {spec.golden_inputs} golden inputs through the engine")
        golden = replay(
            folder,
            parent,
            task=task,
            rows=golden_rows(prepared, spec.golden_inputs),
            num_tokens=spec.golden_tokens,
            engine_spec=engine_spec,
            num_shards=num_shards,
        )
    findings = judge(expected, metrics, spec.max_drop)
    result = VerificationResult(findings, golden, spec.min_agreement, metrics)
    result.write(out)
    progress(step=3, total=3, message="passed" if result.is_passed else "failed")
    return result


def require_passed(result: VerificationResult, report: str) -> None:
    """Let only a model through that passed.

    Raises:
        VerificationError: why it must not be served, and what to change.
    """
    if result.is_passed:
        return
    failed = [finding for finding in result.findings if not finding.is_passed]
    keys = [f"verify.max_drop.{finding.metric}" for finding in failed]
    if result.golden.agreement < result.min_agreement:
        keys.append("verify.min_agreement")
    advice = [_LOST_QUALITY] if keys else []
    if not result.golden.is_faithful:
        keys.append("serve.engine")
        advice.append(_WRONG_ENGINE)
    raise VerificationError(
        "the model did not pass verification and is not served",
        value="; ".join(result.failures),
        allowed="; ".join(f"{finding.metric} at most {finding.allowed:g} worse" for finding in failed) or None,
        key=", ".join(keys),
        hint=" ".join([*advice, f"The report: {report}"]),
    )


def is_served(folder: Path, task: TaskName) -> bool:
    """Whether some engine runs the model, so that there are answers to compare."""
    return task in ROUNDING and not has_adapter(folder)


def golden_rows(prepared: PreparedDataset, count: int) -> list[Row]:
    """Validation rows spread evenly over the set; always the same ones."""
    rows = prepared.validation
    chosen = np.unique(np.linspace(0, len(rows) - 1, num=min(count, len(rows))).astype(int))
    return [rows[int(index)] for index in chosen]


def _evaluate(loaded: LoadedModel, task: TaskName, prepared: PreparedDataset) -> dict[str, float]:
    return evaluate(
        loaded.model,
        load_task(task),
        prepared.validation,
        batch_size=EVALUATION_BATCH,
        pad_token_id=prepared.info.pad_token_id,
    )
