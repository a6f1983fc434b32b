"""A result as JSON, and as the rows of the printed table."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastserve_ray.bench.records import Record
    from fastserve_ray.bench.run import Result

VERSION = 1
"""Of the JSON document."""
SPREADS = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "jct": "JCT"}
STATISTICS = ("mean", "p50", "p90", "p95", "p99", "max")


def document(result: Result) -> dict[str, Any]:
    """All figures and a line for each request; times in seconds."""
    figures = asdict(result.figures)
    return {
        "version": VERSION,
        "url": result.url,
        "model": result.form.model,
        "endpoint": result.form.path,
        "slo": result.limits,
        "notes": list(result.notes),
        **{name: value for name, value in figures.items() if name != "spreads"},
        **{f"{name}_s": values for name, values in figures["spreads"].items()},
        "requests": [_line(record) for record in result.records],
    }


def _line(record: Record) -> dict[str, Any]:
    return {
        "number": record.number,
        "scheduled_s": record.scheduled,
        "sent_s": record.sent,
        "ended_s": record.ended,
        "prompt_tokens": record.num_prompt_tokens,
        "output_tokens": record.num_output_tokens,
        "ttft_s": record.ttft,
        "tpot_s": record.tpot,
        "jct_s": record.jct,
        "failure": None if record.failure is None else asdict(record.failure),
    }


def latency_rows(result: Result) -> list[tuple[str, ...]]:
    """Name and ``STATISTICS`` in milliseconds, of what there are values for."""
    found = result.figures.spreads
    return [
        (label, *(f"{1000 * getattr(found[name], statistic):.1f}" for statistic in STATISTICS))
        for name, label in SPREADS.items()
        if name in found
    ]


def total_rows(result: Result) -> list[tuple[str, str]]:
    """What and how much, of the whole run."""
    figures = result.figures
    rows = [
        ("requests", f"{figures.num_answered} answered, {figures.num_failed} failed, in {figures.seconds:.1f} s"),
        ("requests/s", f"{figures.requests_per_s:.2f}"),
        ("tokens/s out", f"{figures.output_tokens_per_s:.1f}"),
        ("tokens/s in and out", f"{figures.total_tokens_per_s:.1f}"),
        ("tokens per event", f"{figures.tokens_per_event:.2f}"),
    ]
    if figures.goodput_per_s is not None and figures.goodput_share is not None:
        limits = ", ".join(f"{name} ≤ {1000 * limit:g} ms" for name, limit in result.limits.items())
        rows.append(("goodput", f"{figures.goodput_per_s:.2f} requests/s, {figures.goodput_share:.1%} ({limits})"))
    client = figures.client
    rows.append(
        (
            "client",
            f"p99 lag {1000 * client.send_lag_p99_s:.1f} ms sending, {1000 * client.loop_lag_p99_s:.1f} ms reading; "
            f"{client.cpu_share:.0%} of a core",
        )
    )
    return rows


def failure_rows(result: Result) -> list[tuple[str, ...]]:
    """Kind, count, what the first one said, and what the server asked to wait."""
    return [
        (
            group.kind,
            str(group.count),
            group.example,
            "-" if group.mean_retry_after_s is None else f"{group.mean_retry_after_s:g} s",
        )
        for group in result.figures.failures
    ]
