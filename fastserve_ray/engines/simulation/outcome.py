"""What became of every request of a run, real or simulated, and the figures that sum it up."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Arrival:
    """A request and when it comes."""

    at: float
    """Seconds from the start."""
    num_prompt_tokens: int
    num_completion_tokens: int
    """When it will end; policies are not told, unless the run is an oracle's."""
    share_key: str = ""
    priority: int = 0


@dataclass(frozen=True)
class Outcome:
    """One completed request; times in seconds from the start of the run."""

    arrived: float
    first_token: float
    finished: float
    num_completion_tokens: int
    num_preemptions: int = 0
    share_key: str = ""

    @property
    def completion_seconds(self) -> float:
        """JCT: from arrival to the last token."""
        return self.finished - self.arrived

    @property
    def seconds_to_first_token(self) -> float:
        return self.first_token - self.arrived

    @property
    def seconds_per_token(self) -> float:
        """Normalised latency: JCT over tokens of the completion (FastServe, section 6.1)."""
        return self.completion_seconds / self.num_completion_tokens


@dataclass(frozen=True)
class Summary:
    """A run in figures; seconds unless said."""

    num_requests: int
    mean_per_token: float
    p95_per_token: float
    mean_first_token: float
    mean_completion: float
    p99_completion: float
    preemptions_per_request: float
    peak_blocks: int
    swap_share: float
    """Of the run's time, that steps waited for swaps."""


def summarize(outcomes: Sequence[Outcome], *, peak_blocks: int, swap_seconds: float, run_seconds: float) -> Summary:
    """Raises:
    ValueError: nothing was completed.
    """
    if not outcomes:
        raise ValueError("there is no completed request to sum up")
    per_token = [outcome.seconds_per_token for outcome in outcomes]
    completion = [outcome.completion_seconds for outcome in outcomes]
    return Summary(
        num_requests=len(outcomes),
        mean_per_token=fmean(per_token),
        p95_per_token=percentile(per_token, 95),
        mean_first_token=fmean(outcome.seconds_to_first_token for outcome in outcomes),
        mean_completion=fmean(completion),
        p99_completion=percentile(completion, 99),
        preemptions_per_request=fmean(outcome.num_preemptions for outcome in outcomes),
        peak_blocks=peak_blocks,
        swap_share=swap_seconds / run_seconds if run_seconds > 0 else 0.0,
    )


def percentile(values: Sequence[float], percent: int) -> float:
    """The smallest value that at least ``percent`` of all do not exceed (nearest rank)."""
    ordered = sorted(values)
    rank = -(-len(ordered) * percent // 100)
    return ordered[max(0, rank - 1)]
