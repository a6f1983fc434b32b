"""Rules about ``compress`` and ``verify``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.compress import PruneStep, QuantizeStep
from fastserve_ray.spec.metrics import TASK_METRICS
from fastserve_ray.spec.paths import nearest
from fastserve_ray.spec.problems import Finding
from fastserve_ray.spec.words import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.yaml_reader import Path


def check_compress(spec: RunSpec) -> Iterator[Finding]:
    """One measure for pruning, and quantization at the end."""
    if spec.compress and spec.model.task == "masked-lm":
        allowed = "compress the model that is fine-tuned from it"
        message = "a masked language model is made to be fine-tuned"
        yield Finding(("compress",), message, None, allowed, uses=(("model", "task"),))
    last = len(spec.compress) - 1
    for index, step in enumerate(spec.compress):
        path: Path = ("compress", index)
        if isinstance(step, PruneStep):
            yield from _prune(step, path)
        elif isinstance(step, QuantizeStep) and index != last:
            yield Finding(
                path,
                "quantize is followed by another step",
                None,
                "quantize once, as the last step: its weights are final",
            )


def check_verify(spec: RunSpec) -> Iterator[Finding]:
    """Metrics that the task reports."""
    for metric in spec.verify.max_drop:
        yield from unknown_metric(metric, spec, ("verify", "max_drop", metric))


def unknown_metric(metric: str, spec: RunSpec, path: Path) -> Iterator[Finding]:
    """A metric that the task does not report."""
    known = TASK_METRICS[spec.model.task]
    if metric not in known:
        message = f"{spec.model.task} reports no such metric"
        yield Finding(path, message, metric, listing(known), nearest(metric, known), uses=(("model", "task"),))


def _prune(step: PruneStep, path: Path) -> Iterator[Finding]:
    uses = ((*path, "sparsity"), (*path, "threshold"))
    allowed = "exactly one of sparsity and threshold"
    if step.sparsity is None and step.threshold is None:
        yield Finding(path, "neither `sparsity` nor `threshold` is given", None, allowed, uses=uses)
    if step.sparsity is not None and step.threshold is not None:
        yield Finding((*path, "threshold"), "`sparsity` and `threshold` are both given", None, allowed, uses=uses)
    if step.threshold is not None and step.scope == "global":
        yield Finding(
            (*path, "scope"),
            "a threshold is the same for every matrix",
            "global",
            "scope: global only with sparsity",
            uses=uses,
        )
