"""The order of forward and backward passes on one stage.

Both schedules leave a stage idle for (p - 1) / (m + p - 1) of the time with p stages and m micro batches (GPipe,
arXiv 1811.06965, section 2.3). Of a micro batch that has gone forward and not yet backward a stage keeps all
activations: gpipe keeps m at once, 1f1b (PipeDream-Flush, arXiv 2006.09503) at most p.

Ours rather than those of ``torch.distributed.pipelining`` (torch 2.13, alpha): there, each stage keeps a receive buffer
for every micro batch for as long as it lives, which is what 1f1b is to avoid; all micro batches of all steps need one
shape, so texts of unequal length would be padded to the longest; and its 1f1b refuses fewer micro batches than stages.
DeepSpeed's ``PipelineModule`` wants the model rewritten as a list of layers that hand on tuples, masks included.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Callable

Schedule = Literal["gpipe", "1f1b"]


@dataclass(frozen=True)
class Action:
    """One pass of one micro batch."""

    kind: Literal["forward", "backward"]
    micro: int
    """Number of the micro batch, from 0."""


def actions(schedule: Schedule, *, stage: int, num_stages: int, num_micro_batches: int) -> list[Action]:
    """What ``stage`` (from 0) does in one optimizer step."""
    return _ORDERS[schedule](num_stages - stage, num_micro_batches)


def _gpipe(distance: int, number: int) -> list[Action]:
    return [Action("forward", micro) for micro in range(number)] + [
        Action("backward", micro) for micro in range(number)
    ]


def _one_forward_one_backward(distance: int, number: int) -> list[Action]:
    """
    Args:
        distance: to the end of the pipeline; 1 for the last stage. So many micro batches are under way at once.
    """
    warm = min(distance, number)
    found = [Action("forward", micro) for micro in range(warm)]
    for micro in range(number):
        found.append(Action("backward", micro))
        if micro + warm < number:
            found.append(Action("forward", micro + warm))
    return found


_ORDERS: dict[Schedule, Callable[[int, int], list[Action]]] = {"gpipe": _gpipe, "1f1b": _one_forward_one_backward}
