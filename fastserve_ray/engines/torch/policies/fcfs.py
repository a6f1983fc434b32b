"""First come, first served."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.policies.protocol import Decision, JobT

if TYPE_CHECKING:
    from collections.abc import Collection


class Fcfs:
    """Serves what runs, then admits what waits, each in order of arrival.

    Simple and free of starvation; a long request ahead delays short ones behind it.
    """

    def decide(self, running: Collection[JobT], waiting: Collection[JobT]) -> Decision[JobT]:
        return Decision(order=chain(running, waiting))
