"""A whole benchmark: find the server's ways, prepare the prompts, send the load, sum it up."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import cycle, islice
from typing import TYPE_CHECKING

from fastserve_ray.bench.client import Form, Request
from fastserve_ray.bench.drive import Driver, Run
from fastserve_ray.bench.metrics import Figures, sum_up
from fastserve_ray.bench.probe import find_form, find_model
from fastserve_ray.bench.prompts import TextPrompts, TokenPrompts
from fastserve_ray.bench.server import Server
from fastserve_ray.bench.tokens import LocalCounter, ServerCounter
from fastserve_ray.bench.traces import TraceRow

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from fastserve_ray.bench.client import Endpoint
    from fastserve_ray.bench.load import Load
    from fastserve_ray.bench.prompts import Prompts
    from fastserve_ray.bench.records import Record
    from fastserve_ray.bench.tokens import TokenCounter

PROBE_ROW = TraceRow(None, 8, 1)
"""The request that a server is tried with."""
PROBE_NUMBER = -1_000_000
SAY_EACH = 100
"""Prompts between two words about them."""


@dataclass(frozen=True)
class Settings:
    """All that one benchmark depends on beside the requests' lengths and times."""

    url: str
    load: Load
    model: str | None = None
    """None: the only one that is served."""
    endpoint: Endpoint = "completions"
    sends_tokens: bool = False
    """Prompts are lists of tokens and no texts; for completions."""
    tokenizer: str | None = None
    """A folder or hub id; None: the server counts tokens."""
    api_key: str | None = None
    timeout_s: float = 600.0
    temperature: float = 0.0
    num_warmup: int = 0
    """Requests before the load, one by one, that do not count."""


@dataclass(frozen=True)
class Watch:
    """Who wants to know how far it is."""

    say: Callable[[str], None] = lambda _: None
    on_start: Callable[[int], None] = lambda _: None
    """Called with the number of requests when the load begins."""
    on_record: Callable[[Run, Record], None] = lambda _run, _record: None


@dataclass(frozen=True)
class Result:
    """What a benchmark found."""

    url: str
    form: Form
    records: tuple[Record, ...]
    """By number."""
    figures: Figures
    limits: dict[str, float]
    notes: tuple[str, ...]
    """What a reader of the figures has to know."""


async def run_bench(
    settings: Settings, rows: Sequence[TraceRow], limits: Mapping[str, float], watch: Watch | None = None
) -> Result:
    """Run ``rows`` against the server.

    Raises:
        ServeError, UsageError: the server cannot be used in this way; nothing of the load was sent.
    """
    watch = watch or Watch()
    async with Server(settings.url, api_key=settings.api_key, timeout_s=settings.timeout_s) as server:
        model = await find_model(server, settings.model)
        watch.say(f"preparing {len(rows)} prompts for {model}")
        prompts = await _prompts(settings, server, model)
        prompt, _ = await prompts.build(PROBE_ROW, PROBE_NUMBER)
        form = await find_form(server, model, settings.endpoint, prompt, settings.temperature)
        driver = Driver(server, form.path, watch.on_record)
        requests = await _requests(form, prompts, rows, watch)
        if settings.num_warmup:
            watch.say(f"warming up with {settings.num_warmup} requests")
            warm_rows = _warm_rows(rows, settings.num_warmup)
            warm = await _requests(form, prompts, warm_rows, watch, first=-settings.num_warmup)
            await Driver(server, form.path).closed_loop(warm, Run(len(warm)), users=1, think_s=0.0, duration_s=None)
        watch.on_start(len(requests))
        run = await _run(driver, settings.load, requests)
    figures = sum_up(run, limits)
    records = tuple(sorted(run.records, key=lambda record: record.number))
    return Result(server.url, form, records, figures, dict(limits), tuple(_notes(requests, rows, form, figures)))


async def _prompts(settings: Settings, server: Server, model: str) -> Prompts:
    counter: TokenCounter = (
        ServerCounter(server, model, settings.endpoint)
        if settings.tokenizer is None
        else LocalCounter(settings.tokenizer, settings.endpoint)
    )
    kind = TokenPrompts if settings.sends_tokens else TextPrompts
    prompts = kind(counter, settings.load.seed)
    await prompts.calibrate()
    return prompts


async def _requests(
    form: Form, prompts: Prompts, rows: Sequence[TraceRow], watch: Watch, *, first: int = 0
) -> list[Request]:
    """Args:
    first: number of the first request; prompts of different numbers differ.
    """
    requests = []
    for number, row in enumerate(rows, start=first):
        prompt, count = await prompts.build(row, number)
        num_output = row.num_completion_tokens
        requests.append(Request(number, row.at, count, num_output, form.body(prompt, num_output)))
        if len(requests) % SAY_EACH == 0:
            watch.say(f"prepared {len(requests)} of {len(rows)} prompts")
    return requests


def _warm_rows(rows: Sequence[TraceRow], count: int) -> list[TraceRow]:
    """The first rows, without blocks: the load's own prefixes must be as new as they would be without a warm-up."""
    chosen = islice(cycle(rows), count)
    return [TraceRow(None, row.num_prompt_tokens, row.num_completion_tokens) for row in chosen]


async def _run(driver: Driver, load: Load, requests: Sequence[Request]) -> Run:
    run = Run(len(requests))
    if load.users is None:
        return await driver.open_loop(requests, run)
    return await driver.closed_loop(requests, run, users=load.users, think_s=load.think_s, duration_s=load.duration_s)


def _notes(requests: Sequence[Request], rows: Sequence[TraceRow], form: Form, figures: Figures) -> list[str]:
    notes = list(figures.client.warnings)
    inexact = sum(
        request.num_prompt_tokens != row.num_prompt_tokens for request, row in zip(requests, rows, strict=True)
    )
    if inexact:
        notes.append(f"{inexact} prompts could not be made of exactly the length asked; theirs is the nearest")
    missing = [name for name in ("ignore_eos", "min_tokens") if name not in form.extras]
    if missing:
        notes.append(f"the server does not take {' and '.join(missing)}: answers may end early")
    if figures.num_wrong_lengths:
        notes.append(f"{figures.num_wrong_lengths} answers had another number of tokens than was asked")
    if "stream_options" not in form.extras:
        notes.append("the server does not tell token counts: each event with text counts as one token")
    if figures.was_interrupted:
        notes.append("the run was interrupted: requests without an answer count as failures")
    return notes
