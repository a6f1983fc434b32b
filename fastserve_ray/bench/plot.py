"""A result as a picture: a file of matplotlib's kinds, or one HTML page with the tables that needs nothing else."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING, Any

from fastserve_ray.bench.report import STATISTICS, failure_rows, latency_rows, total_rows
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastserve_ray.bench.records import Record
    from fastserve_ray.bench.run import Result

KINDS = (".html", ".pdf", ".png", ".svg")
STYLE = (
    "body{font:15px sans-serif;margin:2em}table{border-collapse:collapse;margin:1em 0}td,th{padding:.2em .8em;"
    "text-align:right;border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}svg{max-width:100%}"
)


def check_plot(path: Path) -> None:
    """Before a run: whether its picture can be drawn.

    Raises:
        UsageError: matplotlib is not installed, the file's kind is unknown, or its folder is not there.
    """
    if path.suffix.lower() not in KINDS:
        raise UsageError("a plot of this kind cannot be drawn", value=str(path), allowed=", ".join(KINDS), key="--plot")
    if not path.resolve().parent.is_dir():
        raise UsageError("the plot's folder does not exist", value=str(path), key="--plot")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "plots need matplotlib, which is not installed", key="--plot", hint="pip install 'fastserve-ray[plot]'"
        ) from error


def write_plot(result: Result, path: Path) -> None:
    """Draw latencies as distributions, and the run over time."""
    figure = _figure(result)
    if path.suffix.lower() != ".html":
        figure.savefig(path, dpi=120)
        return
    picture = io.StringIO()
    figure.savefig(picture, format="svg")
    svg = picture.getvalue()
    path.write_text(_page(result, svg[svg.index("<svg") :]), encoding="utf-8")


def _figure(result: Result) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 8), layout="constrained")
    figure.suptitle(
        f"{result.form.model}: {result.figures.num_answered} of {result.figures.num_sent} requests answered"
    )
    shares, tokens, open_axes, over_time = figure.subplots(2, 2).flat
    answered = [record for record in result.records if record.failure is None]
    _draw_shares(shares, answered, result, "ttft", "jct", title="time to first token, and completion")
    _draw_shares(tokens, answered, result, "tpot", title="time per output token")
    _draw_open(open_axes, result.records)
    _draw_over_time(over_time, result.records)
    return figure


def _draw_shares(axes: Any, answered: Sequence[Record], result: Result, *names: str, title: str) -> None:
    for name in names:
        values = sorted(1000 * value for record in answered if (value := getattr(record, name)) is not None)
        if values:
            axes.step(values, [(at + 1) / len(values) for at in range(len(values))], where="post", label=name)
        if name in result.limits:
            axes.axvline(1000 * result.limits[name], linestyle="--", color="grey", label=f"{name} objective")
    axes.set(title=title, xlabel="ms", ylabel="share of requests", ylim=(0, 1.02))
    if axes.get_legend_handles_labels()[0]:
        axes.legend()


def _draw_open(axes: Any, records: Sequence[Record]) -> None:
    changes = sorted([(record.sent, 1) for record in records] + [(record.ended, -1) for record in records])
    times, counts, count = [0.0], [0], 0
    for time, change in changes:
        count += change
        times.append(time)
        counts.append(count)
    axes.step(times, counts, where="post")
    axes.set(title="requests in flight", xlabel="s", ylim=(0, None))


def _draw_over_time(axes: Any, records: Sequence[Record]) -> None:
    good = [record for record in records if record.failure is None and record.ttft is not None]
    bad = [record for record in records if record.failure is not None]
    axes.plot([record.sent for record in good], [1000 * (record.ttft or 0.0) for record in good], ".", label="ttft")
    axes.plot([record.sent for record in bad], [0.0] * len(bad), "rx", label="failed", clip_on=False)
    axes.set(title="time to first token, by when it was sent", xlabel="s", ylabel="ms", ylim=(0, None))
    axes.legend()


def _page(result: Result, svg: str) -> str:
    title = f"{escape(result.form.model)} at {escape(result.url)}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{STYLE}</style>",
        f"<h1>{title}</h1>",
        *(f"<p>{escape(note)}</p>" for note in result.notes),
        _table(("", ""), total_rows(result)),
        _table(("ms", *STATISTICS), latency_rows(result)),
    ]
    if result.figures.failures:
        parts.append(_table(("failures", "count", "the first one said", "retry after"), failure_rows(result)))
    return "\n".join([*parts, svg, "</html>\n"])


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [
        "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row)
        for tag, row in (("th", head), *(("td", row) for row in rows))
    ]
    return "<table>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
