"""``fastserve bench``: a load on a server, and what it did with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastserve_ray.cli.common import INTERRUPTED, console, json_option, print_json

if TYPE_CHECKING:
    from fastserve_ray.bench.load import Load
    from fastserve_ray.bench.run import Result, Settings
    from fastserve_ray.bench.traces import TraceRow

DEFAULT_LENGTHS = "128"


@click.command("bench")
@click.argument("url")
@click.option("--model", help="Name in /v1/models.  [default: the only one]")
@click.option("--endpoint", type=click.Choice(["completions", "chat"]), default="completions", show_default=True)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="Lengths, and times where it has them: CSV, JSONL, Parquet."
)
@click.option(
    "--input",
    "inputs",
    metavar="LENGTHS",
    help="Prompt tokens: N, uniform:LOW:HIGH, normal:MEAN:DEVIATION, "
    f"lognormal:MEAN:SIGMA, exponential:MEAN.  [default: {DEFAULT_LENGTHS}]",
)
@click.option("--output", "outputs", metavar="LENGTHS", help="Completion tokens, likewise.")
@click.option("--max-input", type=click.IntRange(1), help="Cut longer prompts of the trace or distribution to this.")
@click.option("--max-output", type=click.IntRange(1), help="The same for completions.")
@click.option(
    "--rate",
    type=click.FloatRange(0, min_open=True),
    help="Open loop: requests a second.  [default: 1, or the trace's own times]",
)
@click.option(
    "--arrivals",
    type=click.Choice(["poisson", "gamma", "fixed"]),
    help="Of the open loop.  [default: the trace's, else poisson]",
)
@click.option(
    "--burstiness",
    type=click.FloatRange(0, min_open=True),
    default=1.0,
    help="Of gamma: less than 1 is burstier than Poisson.",
)
@click.option("--users", type=click.IntRange(1), help="Closed loop: so many ask, each again when answered.")
@click.option("--think", "think_s", type=click.FloatRange(0), default=0.0, help="Seconds before a user asks again.")
@click.option("--requests", "num_requests", type=click.IntRange(1), help="How many.  [default: the trace's, or 100]")
@click.option(
    "--duration", "duration_s", type=click.FloatRange(0, min_open=True), help="Seconds in which requests are sent."
)
@click.option("--warmup", type=click.IntRange(0), default=0, help="Requests before, one by one, that do not count.")
@click.option("--slo", help="Limits for the goodput, such as ttft=200ms,tpot=50ms,jct=10s.")
@click.option(
    "--prompts",
    type=click.Choice(["text", "tokens"]),
    default="text",
    show_default=True,
    help="Send texts, or lists of tokens (completions only).",
)
@click.option("--tokenizer", help="Model folder or hub id to count tokens with.  [default: the server's /tokenize]")
@click.option("--temperature", type=click.FloatRange(0, 2), default=0.0, show_default=True)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0, min_open=True),
    default=600.0,
    show_default=True,
    help="Seconds for one request.",
)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Sent as bearer token.  [default: $OPENAI_API_KEY]")
@click.option("--seed", type=int, default=0, show_default=True, help="Of times, lengths and prompts.")
@click.option("--plot", type=click.Path(path_type=Path), help="Draw to this .html, .png, .svg or .pdf file.")
@json_option
def command(**options: Any) -> int:
    """Send a load to the OpenAI-compatible server at URL and report latencies, throughput, goodput and failures.

    Exit code 1 when no request was answered.
    """
    from fastserve_ray.bench.plot import check_plot, write_plot
    from fastserve_ray.bench.slo import parse_slo

    plot: Path | None = options["plot"]
    limits = parse_slo(options["slo"]) if options["slo"] else {}
    load = _load(options)
    settings = _settings(options, load)
    rows = _rows(options, load)
    if plot is not None:
        check_plot(plot)
    result = _run(settings, rows, limits)
    if plot is not None:
        write_plot(result, plot)
    if options["as_json"]:
        from fastserve_ray.bench.report import document

        print_json(document(result))
    else:
        _print(result)
    if result.figures.was_interrupted:
        return INTERRUPTED
    return 0 if result.figures.num_answered else 1


def _load(options: dict[str, Any]) -> Load:
    from fastserve_ray.bench.load import Load

    return Load(
        rate=options["rate"],
        arrivals=options["arrivals"],
        burstiness=options["burstiness"],
        users=options["users"],
        think_s=options["think_s"],
        num_requests=options["num_requests"],
        duration_s=options["duration_s"],
        max_input=options["max_input"],
        max_output=options["max_output"],
        seed=options["seed"],
    )


def _settings(options: dict[str, Any], load: Load) -> Settings:
    from fastserve_ray.bench.run import Settings

    if options["prompts"] == "tokens" and options["endpoint"] == "chat":
        raise click.UsageError("--prompts tokens needs --endpoint completions: a chat has texts")
    return Settings(
        options["url"],
        load,
        model=options["model"],
        endpoint=options["endpoint"],
        sends_tokens=options["prompts"] == "tokens",
        tokenizer=options["tokenizer"],
        api_key=options["api_key"] or None,
        timeout_s=options["timeout_s"],
        temperature=options["temperature"],
        num_warmup=options["warmup"],
    )


def _rows(options: dict[str, Any], load: Load) -> list[TraceRow]:
    from fastserve_ray.bench.lengths import parse_lengths
    from fastserve_ray.bench.traces import read_trace

    if options["trace"] is not None:
        if options["inputs"] or options["outputs"]:
            raise click.UsageError("--trace has its own lengths: leave out --input and --output")
        return load.traced(read_trace(options["trace"]))
    inputs = parse_lengths(options["inputs"] or DEFAULT_LENGTHS, "--input")
    return load.drawn(inputs, parse_lengths(options["outputs"] or DEFAULT_LENGTHS, "--output"))


def _run(settings: Settings, rows: list[TraceRow], limits: dict[str, float]) -> Result:
    from fastserve_ray.bench.run import run_bench
    from fastserve_ray.cli.bench_progress import watching

    with watching() as watch:
        return asyncio.run(run_bench(settings, rows, limits, watch))


def _print(result: Result) -> None:
    from rich import box
    from rich.table import Table

    from fastserve_ray.bench.report import STATISTICS, failure_rows, latency_rows, total_rows

    def table(rows: list[tuple[str, ...]], *head: str) -> None:
        found = Table(*head, box=box.SIMPLE_HEAD, show_header=bool(head))
        for column in found.columns[1:]:
            column.justify = "right"
        for row in rows:
            found.add_row(*row)
        out.print(found)

    out = console()
    out.print(f"{result.form.model} at {result.url}{result.form.path}")
    table([*total_rows(result)])
    table(latency_rows(result), "ms", *STATISTICS)
    if result.figures.failures:
        table(failure_rows(result), "failures", "count", "the first one said", "retry after")
    for note in result.notes:
        out.print(f"note: {note}")
