"""How the layers of a model are shared out over the stages of a pipeline, and what the heaviest stage holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastserve_ray.plan.activations import Activations
from fastserve_ray.plan.parameters import (
    CLASSIFICATION,
    count_parameters,
    largest_tensor,
    parameters_of_rank,
    words_of_rank,
)
from fastserve_ray.plan.peak import States, training_peak
from fastserve_ray.plan.zero import Buffers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.plan.architecture import Architecture
    from fastserve_ray.spec.train import TrainSpec

_FP32 = 4
_ADAM = 8
_LOSS_KEPT = 3
"""A third of the bytes of a loss, the logarithms of the probabilities, waits for the backward pass."""


def share_out(layers: Sequence[float], num_stages: int, *, first: float = 0.0, last: float = 0.0) -> tuple[range, ...]:
    """Runs of neighbouring layers, at least one for each stage, so that the dearest stage costs the least.

    Args:
        layers: cost of each layer: parameters, or seconds.
        num_stages: at most as many as there are layers.
        first: what the first stage holds besides, the embeddings.
        last: what the last stage holds besides, the last norm and the head.
    """
    assert 1 <= num_stages <= len(layers), (num_stages, len(layers))
    sums = [0.0]
    for cost in layers:
        sums.append(sums[-1] + cost)

    def cost_of(stage: int, start: int, stop: int) -> float:
        return sums[stop] - sums[start] + first * (stage == 0) + last * (stage == num_stages - 1)

    dearest = {stop: (cost_of(0, 0, stop), [stop]) for stop in range(1, len(layers) + 1)}
    for stage in range(1, num_stages):
        dearest = {
            stop: min(
                (max(dearest[start][0], cost_of(stage, start, stop)), [*dearest[start][1], stop])
                for start in range(stage, stop)
            )
            for stop in range(stage + 1, len(layers) + 1)
        }
    stops = dearest[len(layers)][1]
    return tuple(range(start, stop) for start, stop in zip([0, *stops], stops, strict=False))


def idle_share(num_stages: int, num_micro_batches: int) -> float:
    """How much of its time a stage waits while the pipeline fills and drains (GPipe, arXiv 1811.06965, section 2.3)."""
    return (num_stages - 1) / (num_micro_batches + num_stages - 1)


def idle_warning(train: TrainSpec) -> str | None:
    """For fewer micro batches than stages: some stage always waits."""
    stages, number = train.parallel.pipeline, train.passes_per_step
    if number >= stages:
        return None
    return (
        f"{number} micro batches for {stages} stages: each waits {idle_share(stages, number):.0%} of the time; "
        f"set train.gradient_accumulation_steps to {stages} or more"
    )


@dataclass(frozen=True)
class StageSize:
    """What one stage holds."""

    num_layers: int
    num_parameters: int
    largest: int
    """Parameters of its largest tensor."""


def stage_sizes(
    model: Architecture, task: str, num_stages: int, num_labels: int = 2, *, tensor: int = 1
) -> tuple[StageSize, ...]:
    """Layers of every stage, and parameters that a rank of it holds. Tied embeddings are held by the first and by the
    last one.

    Args:
        tensor: among how many ranks each layer is cut. Whole layers decide how they are shared out.
    """
    bare = count_parameters(replace(model, num_layers=0), task, num_labels)
    layer = (count_parameters(model, task, num_labels) - bare) // model.num_layers
    entries = model.vocab_size + (0 if model.family == "llama" else model.num_positions + model.type_vocab_size)
    first = (entries + (2 if model.family == "bert" else 0)) * model.hidden_size  # BERT's embeddings have a norm
    is_tied = task != CLASSIFICATION and model.has_tied_embeddings
    last = bare - first + (model.vocab_size * model.hidden_size if is_tied else 0)
    shares = share_out([float(layer)] * model.num_layers, num_stages, first=first, last=last)
    ends = [0] * num_stages
    ends[0] += first
    ends[-1] += last
    tables = [0] * num_stages
    tables[0] += 1
    tables[-1] += task != CLASSIFICATION
    return tuple(
        StageSize(
            len(share),
            parameters_of_rank(
                replace(model, num_layers=len(share)), len(share) * layer + end, tensor=tensor, num_tables=number
            ),
            -(-largest_tensor(model, has_table=number > 0) // tensor),
        )
        for share, end, number in zip(shares, ends, tables, strict=True)
    )


def stage_states(train: TrainSpec, size: StageSize) -> States:
    """Bytes of weights, gradients and optimizer on a rank of a stage. ZeRO 1 shares out whole tensors, so that a worker
    updates no fewer parameters than the largest has."""
    weights, sharers = _FP32 * size.num_parameters, train.parallel.workers if train.parallel.zero else 1
    return States(weights, weights, _ADAM * max(-(-size.num_parameters // sharers), size.largest))


def heaviest_stage(
    model: Architecture,
    train: TrainSpec,
    one: Activations,
    *,
    sizes: Sequence[StageSize],
    num_micro_batches: int,
    gathered: int = 0,
) -> tuple[States, Activations, int]:
    """States, activations and their peak, in bytes, on the stage that needs the most.

    Args:
        one: activations of one micro batch on the way through all stages, on one rank of each.
        sizes: of all stages.
        num_micro_batches: that go through in one optimizer step.
        gathered: of the whole weights, on the first stage at the end.
    """
    found = []
    for number, size in enumerate(sizes):
        distance = len(sizes) - number
        kept = num_micro_batches if train.parallel.schedule == "gpipe" else min(distance, num_micro_batches)
        states = stage_states(train, size)
        parts = [_of_stage(model, one, size, kept=count, is_last=distance == 1) for count in (kept, max(1, kept - 1))]
        # a micro batch that enters when another has gone back finds gradients; else the first to go back finds none
        moments = [(parts[0], True)] if num_micro_batches > kept else [(parts[0], False), (parts[1], kept > 1)]
        peaks = [
            training_peak(
                states,
                part,
                words_of_rank(replace(model, num_layers=size.num_layers), train.parallel.tensor),
                keeps_gradients=has_gradients,
                on_gpu=train.resources_per_worker.GPU > 0,
                buffers=Buffers(end=gathered if number == 0 else 0),
            )
            for part, has_gradients in moments
        ]
        found.append((states, parts[0], max(peaks)))
    return max(found, key=lambda item: item[2])


def _of_stage(model: Architecture, one: Activations, size: StageSize, *, kept: int, is_last: bool) -> Activations:
    """Of ``kept`` micro batches at once."""
    return Activations(
        layers=kept * one.layers * size.num_layers // model.num_layers,
        working=one.working,
        outside=kept * one.outside,
        loss=one.loss + (kept - 1) * one.loss // _LOSS_KEPT if is_last else 0,
    )
