"""What a scheduling policy sees and what it answers.

A policy is pure: it touches no clock, file or tensor. Time comes in as ``now``, seconds on the engine's clock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


class Job(Protocol):
    """A completion as a policy sees it; read-only."""

    @property
    def request_id(self) -> str:
        """No other job of the engine has it."""
        ...

    @property
    def arrival(self) -> int:
        """Counts up with every job that the engine accepted."""
        ...

    @property
    def arrived_at(self) -> float:
        """Seconds on the engine's clock."""
        ...

    @property
    def priority(self) -> int:
        """Larger is served first, above every policy."""
        ...

    @property
    def share_key(self) -> str:
        """Whose share it uses."""
        ...

    @property
    def share_weight(self) -> float:
        """Of this share, as the request says."""
        ...

    @property
    def expected_tokens(self) -> int | None:
        """Length of the completion that the request gave or a predictor said."""
        ...

    @property
    def max_tokens(self) -> int: ...

    @property
    def num_prompt_tokens(self) -> int: ...

    @property
    def num_computed_tokens(self) -> int:
        """Tokens whose keys and values are kept, on the device or in the host pool."""
        ...

    @property
    def num_completion_tokens(self) -> int: ...

    @property
    def num_preemptions(self) -> int:
        """Times that it has had to wait after it had run."""
        ...

    @property
    def is_resident(self) -> bool:
        """Whether its keys and values are on the device, so that it can go on at once."""
        ...


JobT = TypeVar("JobT", bound=Job)


class Policy(Protocol):
    """The order of service."""

    def add(self, job: Job, now: float) -> None:
        """``job`` was accepted."""
        ...

    def charge(self, job: Job, num_tokens: int, now: float) -> None:
        """A step is over in which ``job`` got ``num_tokens`` tokens of its own."""
        ...

    def remove(self, job: Job) -> None:
        """``job`` is finished or cancelled."""
        ...

    def order(self, jobs: Collection[JobT], now: float) -> list[JobT]:
        """All of ``jobs``, the one to serve first in front."""
        ...

    def next_times(self, ordered: Sequence[JobT], now: float) -> list[float]:
        """Seconds from ``now`` until each of ``ordered`` is expected to run: its estimated next scheduled time."""
        ...
