"""How long a replica took from the request that it was started for to that request's first token, phase by phase.

============== =========================================================================================
decision       the request came; Serve decides that there must be a replica
placement      Serve asks for a place; a worker process of Ray is there
process        that process starts Python, Ray and Serve, up to the replica's own code
import         torch, transformers and the engine
weights        the model is read and the engine is built
route          the replica counts as up; the request arrives in it
first_token    the request is in the replica; its first token
============== =========================================================================================

Times are of the nodes' clocks: between two machines a phase is as exact as these agree. `decision` and `route` are of
a request that had to wait for the replica; a replica that was started for more load, or at the start, has none.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PHASES = ("decision", "placement", "process", "import", "weights", "route", "first_token")


class ColdStart:
    """The phases of one replica.

    Args:
        process_began: when the worker's process was started; one that Ray held ready began before it was asked for.
        clock: seconds since the epoch; read now, as the first line of the replica's code.
    """

    def __init__(self, process_began: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._process_began = process_began
        self._code_began = clock()
        self._ready_at = self._code_began
        self._asked_at: float | None = None
        self._sent_at: float | None = None
        self._arrived_at: float | None = None
        self._first_token_at: float | None = None
        self._measured: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a part of the replica's own code."""
        began = self._clock()
        yield
        self._ready_at = self._clock()
        self._measured[name] = self._ready_at - began

    def asked(self, at: float) -> None:
        """When Serve asked Ray for the actor."""
        self._asked_at = at

    def arrived(self, sent_at: float | None) -> None:
        """A call is here, the first one counts; ``sent_at``: when its ingress sent it."""
        if self._arrived_at is None:
            self._arrived_at, self._sent_at = self._clock(), sent_at

    def first_token(self) -> bool:
        """A token is here; True for the first one of all."""
        if self._first_token_at is not None:
            return False
        self._first_token_at = self._clock()
        return True

    @property
    def was_waited_for(self) -> bool:
        """Whether the first call was sent before there was anyone to run it."""
        return self._sent_at is not None and self._sent_at < self._code_began

    def phases(self) -> dict[str, float]:
        """Seconds of the phases that are over and known, in their order."""
        found = dict(self._measured)
        if self._asked_at is not None:
            found["placement"] = max(0.0, self._process_began - self._asked_at)
            found["process"] = self._code_began - max(self._asked_at, self._process_began)
            if self._sent_at is not None and self.was_waited_for:
                found["decision"] = max(0.0, self._asked_at - self._sent_at)
        if self._arrived_at is not None and self.was_waited_for:
            found["route"] = max(0.0, self._arrived_at - self._ready_at)
        if self._arrived_at is not None and self._first_token_at is not None:
            found["first_token"] = self._first_token_at - self._arrived_at
        return {name: found[name] for name in PHASES if name in found}

    def line(self) -> str:
        """For the log."""
        parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in self.phases().items())
        if self._sent_at is None or self._first_token_at is None or not self.was_waited_for:
            return f"replica start: {parts}"
        return f"cold start: first token after {self._first_token_at - self._sent_at:.2f} s: {parts}"
