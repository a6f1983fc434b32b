"""What is seen of one request on its way: when it waited, was routed, read and written."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastserve_ray.serve.calls import Frame
from fastserve_ray.serve.quota.cost import used

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class Observed:
    """Filled by the process that answers HTTP; seconds are on its event loop's clock."""

    model: str
    key: str
    """The label of the API key."""
    arrived_at: float
    clock: Callable[[], float]
    sent_at: float | None = None
    """To a replica; the last time, where one was lost."""
    gate_s: float = 0.0
    """Waited at the gate."""
    first_at: float | None = None
    ended_at: float | None = None
    first: Frame | None = None
    last: Frame | None = None
    num_prompt_tokens: int = 0
    num_generation_tokens: int = 0
    finished_reasons: list[str] = field(default_factory=list)
    """Of its choices."""
    code: str | None = None
    """Of the error, if there was one."""

    def sent(self) -> None:
        self.sent_at = self.clock()

    def answered(self, answer: object) -> None:
        """A frame, or the one answer."""
        self.ended_at = self.clock()
        self.num_prompt_tokens, self.num_generation_tokens = used(answer)
        if not isinstance(answer, Frame):
            return
        if self.first is None:
            self.first, self.first_at = answer, self.ended_at
        self.last = answer
        self.finished_reasons += [piece.finish_reason for piece in answer.pieces if piece.finish_reason is not None]

    def seconds(self) -> dict[str, float]:
        """By the names of the metrics; only what there was."""
        if self.first is None or self.last is None or self.ended_at is None:
            return {} if self.ended_at is None else {"e2e_request_latency_seconds": self.ended_at - self.arrived_at}
        found = {"e2e_request_latency_seconds": self.ended_at - self.arrived_at}
        waited, first_s, last_s = self.first.queue_s or 0.0, self.first.first_token_s, self.last.last_token_s
        found["request_queue_time_seconds"] = self.gate_s + waited
        if first_s is None or self.sent_at is None or self.first_at is None:
            return found
        is_whole = self.first is self.last
        in_replica = last_s if is_whole and last_s is not None else first_s
        route = max(0.0, self.first_at - self.sent_at - in_replica)
        found["request_route_time_seconds"] = route
        found["time_to_first_token_seconds"] = self.sent_at - self.arrived_at + route + first_s
        found["request_prefill_time_seconds"] = max(0.0, first_s - waited)
        if last_s is not None:
            found["request_decode_time_seconds"] = last_s - first_s
            num_after_first = self.num_generation_tokens / max(1, len(self.finished_reasons)) - 1
            if self.finished_reasons and num_after_first > 0:
                found["time_per_output_token_seconds"] = (last_s - first_s) / num_after_first
        return found
