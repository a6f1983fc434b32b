"""How the layers of a model are shared out over the stages of a pipeline."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


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
