"""Training that fits the memory: the largest micro batch, and the smallest change to a run that does not fit.

The global batch never changes, so every change here leaves the result as it is, but for the last digits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import PlacementError, SpecError
from fastserve_ray.plan.budget import Budget, worker_budget
from fastserve_ray.plan.memory import StageMemory, estimate_memory
from fastserve_ray.plan.words import size_in_words
from fastserve_ray.spec.load import with_overrides

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from fastserve_ray.spec.run import RunSpec

_ZERO = "train.parallel.zero"
_CHECKPOINTING: dict[str, object] = {"train.gradient_checkpointing": True}
_CHANGES: tuple[tuple[dict[str, object], bool], ...] = (
    ({_ZERO: 1}, False),
    ({_ZERO: 2}, False),
    ({}, True),
    ({_ZERO: 2}, True),
    (_CHECKPOINTING, False),
    ({_ZERO: 2, **_CHECKPOINTING}, True),
    (_CHECKPOINTING, True),
    ({_ZERO: 3}, True),
    ({_ZERO: 3, **_CHECKPOINTING}, True),
    ({_ZERO: 2, "train.parallel.offload": "cpu", **_CHECKPOINTING}, True),
    ({_ZERO: 3, "train.parallel.offload": "cpu", **_CHECKPOINTING}, True),
)
"""Changes, and whether the micro batch may shrink with them, by what they cost in time. ZeRO 1 and 2 exchange as much
as DDP does (2 Ψ); smaller micro batches use the processor a little less; checkpointing computes the forward pass twice
(a third more); ZeRO 3 exchanges 3 Ψ and waits for it; offload goes over the bus in every step."""


@dataclass(frozen=True)
class Misfit:
    """A stage whose workers need more memory than they have."""

    stage: str
    memory: StageMemory
    budget: Budget
    change: Mapping[str, object] | None
    """Keys that make it fit; None when nothing here does."""
    changed: StageMemory | None
    """The estimate with ``change``."""

    def error(self) -> PlacementError:
        """What to tell the user, with the figures before and after."""
        assert self.memory.peak is not None
        settings = ", ".join(f"{key}: {_yaml(value)}" for key, value in (self.change or {}).items())
        return PlacementError(
            f"a worker of {self.stage} needs more memory than it has",
            value=_parts(self.memory),
            allowed=f"{size_in_words(self.budget.bytes)} ({self.budget.words})",
            key=next(iter(self.change or {}), "train.parallel"),
            hint=f"set {settings}: {_parts(self.changed)}" if self.changed else _NOTHING_FITS,
        )


_NOTHING_FITS = "no stage of ZeRO, micro batch, checkpointing or offload fits; take a smaller model or larger machines"


def with_micro_batch(spec: RunSpec) -> RunSpec:
    """``spec`` with the largest micro batch that fits in place of ``train.micro_batch_size: auto``; any other as it is.

    Depends on the spec and on the machine's total memory only, so that a run that is started again chooses alike.

    Raises:
        PlacementError: the memory of the model or of the machines is not known, or not even one sequence fits.
    """
    if spec.train is None or spec.train.micro_batch_size != "auto":
        return spec
    budget = worker_budget(spec, spec.train.parallel.num_ranks)
    smallest = with_overrides(spec, {"train.micro_batch_size": 1})
    memory = _of_stage(smallest, "train")
    if memory.peak is None or budget is None:
        raise PlacementError(
            "the micro batch cannot be chosen before the start",
            value=memory.reason or "the memory of the machines is not known",
            allowed="a number",
            key="train.micro_batch_size",
            hint=None if budget else "or set cluster.memory_mb (cluster.gpu_memory_mb for GPUs)",
        )
    largest = _largest_that_fits(spec, budget)
    if largest is None:
        raise _misfit(smallest, memory, budget).error()
    return largest


def misfits(spec: RunSpec) -> Iterator[Misfit]:
    """Stages that do not fit, as far as sizes are known; ``train.micro_batch_size`` is a number or left out."""
    if spec.train is None:
        return
    for memory in estimate_memory(spec):
        if memory.stage == "serve" or memory.peak is None:
            continue
        ranks = spec.train.parallel.num_ranks
        if memory.stage == "tune" and spec.tune is not None:
            ranks = spec.ranks_per_trial
        budget = worker_budget(spec, ranks)
        if budget is not None and memory.peak > budget.bytes:
            yield _misfit(spec, memory, budget)


def check_memory(spec: RunSpec, *, stages: Sequence[str]) -> None:
    """Refuse a run of which one of ``stages`` does not fit.

    Raises:
        PlacementError: with the figures, and with the smallest change that fits.
    """
    for misfit in misfits(spec):
        if misfit.stage in stages:
            raise misfit.error()


def _misfit(spec: RunSpec, memory: StageMemory, budget: Budget) -> Misfit:
    for change in _possible_changes(spec):
        for changed in _with_change(spec, change[0], may_shrink=change[1]):
            after = _of_stage(changed[1], memory.stage)
            if after.peak is not None and after.peak <= budget.bytes:
                return Misfit(memory.stage, memory, budget, changed[0], after)
    return Misfit(memory.stage, memory, budget, None, None)


def _possible_changes(spec: RunSpec) -> Iterator[tuple[dict[str, object], bool]]:
    """Those that change something, and go with the number of workers and the device."""
    assert spec.train is not None
    train, parallel = spec.train, spec.train.parallel
    for change, may_shrink in _CHANGES:
        zero = change.get(_ZERO, parallel.zero)
        is_lower = isinstance(zero, int) and zero < parallel.zero
        is_useless = _ZERO in change and parallel.workers == 1 and "train.parallel.offload" not in change
        needs_gpu = "train.parallel.offload" in change and train.resources_per_worker.GPU == 0
        if is_lower or is_useless or needs_gpu or (train.gradient_checkpointing and change == _CHECKPOINTING):
            continue
        yield {key: value for key, value in change.items() if not (key == _ZERO and value == parallel.zero)}, may_shrink


def _with_change(
    spec: RunSpec, change: Mapping[str, object], *, may_shrink: bool
) -> Iterator[tuple[dict[str, object], RunSpec]]:
    """The changed spec with its own micro batch, then with smaller ones; what the checks refuse is left out."""
    assert spec.train is not None
    own = spec.train.rows_per_pass
    for rows in [own, *(_divisors(own)[1:] if may_shrink else [])]:
        whole = {**change, **({} if rows == own else _rows(spec, rows))}
        try:
            yield whole, with_overrides(spec, whole)
        except SpecError:
            continue


def _largest_that_fits(spec: RunSpec, budget: Budget) -> RunSpec | None:
    assert spec.train is not None
    for rows in _divisors(spec.train.batch_size // spec.train.parallel.workers):
        chosen = with_overrides(spec, {"train.micro_batch_size": rows})
        peak = _of_stage(chosen, "train").peak
        if peak is not None and peak <= budget.bytes:
            return chosen
    return None


def _rows(spec: RunSpec, rows: int) -> dict[str, object]:
    """A micro batch of ``rows`` in the words of the file."""
    assert spec.train is not None
    if spec.train.micro_batch_size is not None:
        return {"train.micro_batch_size": rows}
    return {"train.gradient_accumulation_steps": spec.train.batch_size // spec.train.parallel.workers // rows}


def _divisors(number: int) -> list[int]:
    """From the largest down."""
    return [divisor for divisor in range(number, 0, -1) if number % divisor == 0]


def _of_stage(spec: RunSpec, stage: str) -> StageMemory:
    return next(memory for memory in estimate_memory(spec) if memory.stage == stage)


def _parts(memory: StageMemory | None) -> str:
    assert memory is not None
    named = ("parameters", "gradients", "optimizer", "activations")
    parts = ", ".join(f"{name} {size_in_words(getattr(memory, name))}" for name in named)
    return f"{size_in_words(memory.peak)} at its peak ({parts})"


def _yaml(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
