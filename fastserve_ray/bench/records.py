"""What the client notes of every request; times in seconds from the start of the run."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FailureKind(StrEnum):
    """Why a request was not answered in full."""

    RATE_LIMITED = "rate_limited"
    """429."""
    OVERLOADED = "overloaded"
    """503."""
    REFUSED = "refused"
    """Another 4xx: the request itself is not taken."""
    SERVER_ERROR = "server_error"
    """Another 5xx, or a body that is no stream of events."""
    CONNECTION = "connection"
    """No connection, or it ended before the answer began."""
    BROKEN_STREAM = "broken_stream"
    """The answer began, and ended with an error event or without ``[DONE]``."""
    TIMEOUT = "timeout"
    """Not done within ``--timeout``."""
    EMPTY = "empty"
    """An answer in due form without a token."""
    INTERRUPTED = "interrupted"
    """The run was stopped before the answer was there."""


@dataclass(frozen=True)
class Failure:
    """What happened to a request that failed."""

    kind: FailureKind
    detail: str
    status: int | None = None
    retry_after_s: float | None = None
    """What the server asked to wait."""


@dataclass(frozen=True)
class Record:
    """One request and its answer."""

    number: int
    scheduled: float
    """When it should have been sent; in a closed loop, when it was."""
    sent: float
    ended: float
    """When the answer was whole, or the failure known."""
    num_prompt_asked: int
    num_output_asked: int
    num_prompt_tokens: int | None = None
    """As the server counted, None when it does not tell."""
    num_output_tokens: int = 0
    """As the server counted; where it does not tell, events with text."""
    event_times: tuple[float, ...] = ()
    """When each event with text came. One event may carry several tokens."""
    failure: Failure | None = None

    @property
    def lag(self) -> float:
        """How late the client was."""
        return self.sent - self.scheduled

    @property
    def ttft(self) -> float | None:
        """Time to the first token."""
        return self.event_times[0] - self.sent if self.event_times else None

    @property
    def jct(self) -> float | None:
        """Completion time: to the last token."""
        return self.event_times[-1] - self.sent if self.event_times else None

    @property
    def tpot(self) -> float | None:
        """Time per output token after the first: (JCT - TTFT) / (n - 1)."""
        if len(self.event_times) < 1 or self.num_output_tokens < 2:
            return None
        return (self.event_times[-1] - self.event_times[0]) / (self.num_output_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """ITL: the time between events with text."""
        return [after - before for before, after in zip(self.event_times, self.event_times[1:], strict=False)]
