"""What Serve and the HTTP face add to the bare engine: tokens a second, and the time to the first token.

One model, random weights of Qwen2's shape (386.6 million parameters), twice on the same machine: in a process of its
own, driven by nothing but `step()`, and behind ``fastserve serve``, asked over HTTP by ``fastserve bench``'s client.
Both have the same settings and threads, and get the same requests: greedy, end tokens ignored, new prompts of tokens
each round. They take their rounds in turn; the other one is idle. What the client needs of the processor counts
against the server, as it runs beside it.

Two ways to come: all at once, and one after the other, ``--gap`` seconds apart. At once, the engine alone reads all
prompts in one step, while over HTTP the first that arrives is read alone and the others wait for it.

    python -m benchmarks.serve_overhead [--quick] [--streams N] [--threads N] [--rounds N] [--gap SECONDS] [--json FILE]
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, median
from typing import TYPE_CHECKING

from benchmarks.common import Figure, make_parser, report
from benchmarks.peers.process import Command, PeerProcess
from benchmarks.peers.weights import make_model_folder
from benchmarks.peers.workload import FULL_SHAPE, LARGEST_STEP, MAX_MODEL_LEN, MAX_NUM_SEQS, QUICK_SHAPE, Workload
from benchmarks.served import served
from fastserve_ray.bench.client import Form, Request
from fastserve_ray.bench.drive import Driver, Run
from fastserve_ray.bench.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.workload import Asked

PROMPT_TOKENS = 32
OUTPUT_TOKENS = 64
QUICK_OUTPUT_TOKENS = 32
TIMEOUT_S = 300.0
MODEL = "model"
"""The folder's name, and so the model's."""


@dataclass(frozen=True)
class Round:
    """One side's round."""

    tokens_per_s: float
    """From the sending of all requests to the last token."""
    mean_ttft_s: float
    client_cpu_share: float = 0.0


def of_engine(engine: PeerProcess, asked: Sequence[Asked]) -> Round:
    results = engine.run(asked)
    num_tokens = sum(request.length for request in asked)
    ttft = fmean(result.first - request.at for result, request in zip(results, asked, strict=True))
    return Round(num_tokens / max(result.seconds for result in results), ttft)


async def of_server(url: str, asked: Sequence[Asked]) -> Round:
    form = Form(MODEL)
    requests = [
        Request(number, one.at, len(one.prompt), one.length, form.body(list(one.prompt), one.length))
        for number, one in enumerate(asked)
    ]
    async with Server(url) as server:
        run = await Driver(server, form.path).open_loop(requests, Run(len(requests)))
    failures = [record.failure for record in run.records if record.failure is not None]
    if failures or sum(record.num_output_tokens for record in run.records) != sum(one.length for one in asked):
        raise SystemExit(f"the server did not answer as asked: {failures[:1]}")
    last = max(record.event_times[-1] for record in run.records)
    ttft = fmean(record.event_times[0] - record.scheduled for record in run.records)
    return Round(sum(one.length for one in asked) / last, ttft, run.cpu_seconds / run.seconds)


def settings(threads: int) -> tuple[str, ...]:
    """The engine's own settings in `benchmarks.peers.ours`, as keys of the spec."""
    return (
        f"serve.engine.num_threads={threads}",
        f"serve.engine.max_num_seqs={MAX_NUM_SEQS}",
        f"serve.engine.max_model_len={MAX_MODEL_LEN}",
        f"serve.engine.max_num_batched_tokens={LARGEST_STEP}",
        "serve.autoscaling_config.max_replicas=1",
    )


@dataclass(frozen=True)
class Ways:
    """How requests come in a round."""

    workload: Workload
    gaps: dict[str, float]
    """Seconds between two of them, by name."""

    def draw(self, vocab_size: int, seed: int) -> dict[str, list[Asked]]:
        """By name; no two have a prompt in common."""
        return {
            name: [
                replace(asked, at=gap * number)
                for number, asked in enumerate(self.workload.draw(vocab_size, 1000 * way + seed))
            ]
            for way, (name, gap) in enumerate(self.gaps.items())
        }


Pair = tuple[Round, Round]
"""The engine alone, and over HTTP."""


def measure(ways: Ways, *, is_quick: bool, threads: int, rounds: int) -> dict[str, list[Pair]]:
    """Each side's rounds, in turn, after one that warms up."""
    shape = QUICK_SHAPE if is_quick else FULL_SHAPE
    found: dict[str, list[Pair]] = {name: [] for name in ways.gaps}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / MODEL
        make_model_folder(shape, folder)
        arguments = ("serve", str(folder), str(threads), "fp32")
        command = Command(Path(sys.executable), "benchmarks.peers.ours", arguments, Path(scratch) / "engine.log")
        engine = PeerProcess(command, threads=threads, timeout=TIMEOUT_S)
        engine.memory.stop()
        try:
            with served(folder, settings(threads)) as url:
                for number in range(rounds + 1):
                    for name, asked in ways.draw(shape.vocab_size, number).items():
                        pair = of_engine(engine, asked), asyncio.run(of_server(url, asked))
                        print(number, name, pair, file=sys.stderr, flush=True)
                        found[name] += [pair] if number else []
        finally:
            engine.stop()
    return found


def table(found: dict[str, list[Pair]]) -> list[dict[str, Figure]]:
    return [row for name, pairs in found.items() for row in _rows(name, pairs)]


def _rows(name: str, pairs: list[Pair]) -> list[dict[str, Figure]]:
    rows: list[dict[str, Figure]] = [
        {
            "requests come": name,
            "": side,
            "tokens/s": median(one.tokens_per_s for one in rounds),
            "mean TTFT ms": 1000 * median(one.mean_ttft_s for one in rounds),
            "client, of a core": median(one.client_cpu_share for one in rounds),
        }
        for side, rounds in zip(("engine", "over HTTP"), zip(*pairs, strict=True), strict=True)
    ]
    rows.append(
        {
            "requests come": name,
            "": "ratio, difference; median of pairs",
            "tokens/s": median(http.tokens_per_s / engine.tokens_per_s for engine, http in pairs),
            "mean TTFT ms": 1000 * median(http.mean_ttft_s - engine.mean_ttft_s for engine, http in pairs),
        }
    )
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--streams", type=int, default=MAX_NUM_SEQS, help="requests of a round")
    parser.add_argument("--threads", type=int, default=2, help="torch threads, of each side")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up")
    parser.add_argument("--gap", type=float, default=0.2, help="seconds between requests that come one by one")
    arguments = parser.parse_args()
    length = QUICK_OUTPUT_TOKENS if arguments.quick else OUTPUT_TOKENS
    workload = Workload("streams", ((PROMPT_TOKENS, length),) * arguments.streams)
    ways = Ways(workload, {"at once": 0.0, f"each {arguments.gap:g} s": arguments.gap})
    found = measure(ways, is_quick=arguments.quick, threads=arguments.threads, rounds=arguments.rounds)
    title = f"{arguments.streams} streams, {PROMPT_TOKENS} tokens in, {length} out, {arguments.threads} threads each"
    report(title, table(found), json_file=arguments.json)


if __name__ == "__main__":
    main()
