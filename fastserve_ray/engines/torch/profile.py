"""How long steps take, as measured when the engine opens."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Profile:
    """Seconds of a step by what it reads.

    Raises:
        ValueError: no prompt length was measured, or they do not ascend.
    """

    prefill: tuple[tuple[int, float], ...]
    """(prompt tokens, seconds) of a step that reads so many, ascending."""
    decode_seconds: float
    """One decode step with one sequence: the shortest iteration."""

    def __post_init__(self) -> None:
        lengths = [length for length, _ in self.prefill]
        if not lengths or lengths != sorted(set(lengths)):
            raise ValueError(f"prompt lengths must ascend and there must be one: {lengths}")

    def prefill_seconds(self, num_tokens: int) -> float:
        """A step that reads ``num_tokens`` of one prompt: linear between and beyond what was measured, and never less
        than the shortest iteration."""
        if len(self.prefill) == 1:
            length, seconds = self.prefill[0]
            return max(self.decode_seconds, seconds * num_tokens / length)
        at = 1
        while at < len(self.prefill) - 1 and self.prefill[at][0] < num_tokens:
            at += 1
        (low, low_seconds), (high, high_seconds) = self.prefill[at - 1], self.prefill[at]
        slope = max(0.0, (high_seconds - low_seconds) / (high - low))
        return max(self.decode_seconds, low_seconds + slope * (num_tokens - low))

    def service_seconds(self, num_tokens: int) -> float:
        """What a job is charged for ``num_tokens`` of its own in one step."""
        return self.decode_seconds if num_tokens == 1 else self.prefill_seconds(num_tokens)


NOT_MEASURED = Profile(prefill=((1, 1.0),), decode_seconds=1.0)
"""For policies that need an order of requests only: every token counts one."""
