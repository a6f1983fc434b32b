"""From records to figures. Percentiles are of the nearest rank, over answered requests; seconds unless said."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import TYPE_CHECKING

from fastserve_ray.bench.slo import meets
from fastserve_ray.engines.simulation.outcome import percentile

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.bench.drive import Run
    from fastserve_ray.bench.records import Record

PERCENTS = (50, 90, 95, 99)
LAG_LIMIT_S = 0.01
"""A client later than this at the 99th percentile is told of."""
BUSY_SHARE = 0.8
"""Of one core, from which a client of one thread is a bottleneck."""


@dataclass(frozen=True)
class Spread:
    """A quantity over requests, or over events."""

    count: int
    mean: float
    p50: float
    p90: float
    p95: float
    p99: float
    max: float


@dataclass(frozen=True)
class FailureGroup:
    """Failures of one kind."""

    kind: str
    count: int
    example: str
    """What the first one said."""
    mean_retry_after_s: float | None


@dataclass(frozen=True)
class ClientFigures:
    """How far the client itself can be trusted."""

    send_lag_p99_s: float
    """Behind the times of the load."""
    loop_lag_p99_s: float
    """From an event's coming to its being noted."""
    cpu_share: float
    """Of one core."""

    @property
    def warnings(self) -> list[str]:
        found = []
        late = max(self.send_lag_p99_s, self.loop_lag_p99_s)
        if late > LAG_LIMIT_S:
            found.append(f"the client was {1000 * late:.0f} ms late at the 99th percentile: times are too long by that")
        if self.cpu_share > BUSY_SHARE:
            found.append(f"the client kept {100 * self.cpu_share:.0f}% of a core busy: it may be what limits the load")
        return found


@dataclass(frozen=True)
class Figures:
    """A run, summed up."""

    seconds: float
    """From the first request to the last answer."""
    num_sent: int
    num_answered: int
    num_failed: int
    prompt_tokens: int
    """As the server counted, of answered requests; as asked where it does not tell."""
    output_tokens: int
    requests_per_s: float
    """Answered ones."""
    output_tokens_per_s: float
    total_tokens_per_s: float
    tokens_per_event: float
    """More than 1 where the server sends several tokens at once: ITL is then the time between such events."""
    goodput_per_s: float | None
    """Requests a second that were answered within every limit; None without limits."""
    goodput_share: float | None
    """Of all that were sent."""
    spreads: dict[str, Spread]
    """``ttft``, ``tpot``, ``itl``, ``jct``."""
    failures: tuple[FailureGroup, ...]
    client: ClientFigures
    num_wrong_lengths: int
    """Answered with another number of tokens than was asked."""
    was_interrupted: bool


def sum_up(run: Run, limits: Mapping[str, float]) -> Figures:
    """The figures of a run.

    Args:
        limits: of the service level objective, by `slo.NAMES`; may be empty.
    """
    answered = [record for record in run.records if record.failure is None]
    begin = min((record.sent for record in run.records), default=0.0)
    seconds = max((record.ended for record in run.records), default=0.0) - begin
    prompt_tokens = sum(_prompt_tokens(record) for record in answered)
    output_tokens = sum(record.num_output_tokens for record in answered)
    num_good = sum(meets(record, limits) for record in run.records) if limits else None
    return Figures(
        seconds=seconds,
        num_sent=len(run.records),
        num_answered=len(answered),
        num_failed=len(run.records) - len(answered),
        prompt_tokens=prompt_tokens,
        output_tokens=output_tokens,
        requests_per_s=_per(len(answered), seconds),
        output_tokens_per_s=_per(output_tokens, seconds),
        total_tokens_per_s=_per(prompt_tokens + output_tokens, seconds),
        tokens_per_event=_per(output_tokens, sum(len(record.event_times) for record in answered)),
        goodput_per_s=None if num_good is None else _per(num_good, seconds),
        goodput_share=None if num_good is None else _per(num_good, len(run.records)),
        spreads=spreads(answered),
        failures=group_failures(run.records),
        client=_client(run),
        num_wrong_lengths=sum(record.num_output_tokens != record.num_output_asked for record in answered),
        was_interrupted=run.was_interrupted,
    )


def spreads(answered: Sequence[Record]) -> dict[str, Spread]:
    """What there are values for."""
    values = {
        "ttft": [record.ttft for record in answered if record.ttft is not None],
        "tpot": [record.tpot for record in answered if record.tpot is not None],
        "itl": [gap for record in answered for gap in record.gaps],
        "jct": [record.jct for record in answered if record.jct is not None],
    }
    return {name: spread(found) for name, found in values.items() if found}


def spread(values: Sequence[float]) -> Spread:
    """Of at least one value."""
    p50, p90, p95, p99 = (percentile(values, percent) for percent in PERCENTS)
    return Spread(len(values), fmean(values), p50, p90, p95, p99, max(values))


def group_failures(records: Sequence[Record]) -> tuple[FailureGroup, ...]:
    """By kind, the most frequent first."""
    failures = [record.failure for record in records if record.failure is not None]
    groups = []
    for kind, count in Counter(failure.kind for failure in failures).most_common():
        own = [failure for failure in failures if failure.kind is kind]
        waits = [failure.retry_after_s for failure in own if failure.retry_after_s is not None]
        groups.append(FailureGroup(str(kind), count, own[0].detail, fmean(waits) if waits else None))
    return tuple(groups)


def _client(run: Run) -> ClientFigures:
    lags = [record.lag for record in run.records]
    return ClientFigures(
        percentile(lags, 99) if lags else 0.0,
        percentile(run.loop_lags, 99) if run.loop_lags else 0.0,
        _per(run.cpu_seconds, run.seconds),
    )


def _prompt_tokens(record: Record) -> int:
    return record.num_prompt_asked if record.num_prompt_tokens is None else record.num_prompt_tokens


def _per(amount: float, over: float) -> float:
    return amount / over if over > 0 else 0.0
