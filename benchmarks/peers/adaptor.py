"""The side of a peer's process: load, say so, then answer rounds of requests, one line of JSON each.

Runs in the Python of any peer, so it needs nothing but the standard library. Two commands:

    python -m benchmarks.peers.NAME convert SOURCE TARGET PRECISION   from a Hugging Face folder to what the peer reads
    python -m benchmarks.peers.NAME serve FOLDER THREADS PRECISION    rounds come on stdin, results go to stdout
"""

from __future__ import annotations

import json
import os
import sys
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, Protocol

from benchmarks.peers.workload import Asked

if TYPE_CHECKING:
    from collections.abc import Sequence


class Stopwatch:
    """The tokens of each request of a round, and when they came."""

    def __init__(self, num_requests: int) -> None:
        self._begin = perf_counter()
        self._times: list[list[float]] = [[] for _ in range(num_requests)]
        self._tokens: list[list[int]] = [[] for _ in range(num_requests)]

    @property
    def seconds(self) -> float:
        """Since the round began."""
        return perf_counter() - self._begin

    def saw(self, request: int, *tokens: int) -> None:
        """``request`` has these tokens more."""
        now = self.seconds
        self._times[request] += [now] * len(tokens)
        self._tokens[request] += map(int, tokens)

    def results(self) -> list[dict[str, Any]]:
        """Of each request: seconds to the first and to the last token, and the tokens."""
        return [
            {"first": seconds[0], "seconds": seconds[-1], "tokens": tokens}
            for seconds, tokens in zip(self._times, self._tokens, strict=True)
        ]


class Engine(Protocol):
    """A loaded engine."""

    def run(self, asked: Sequence[Asked], watch: Stopwatch) -> None:
        """Generate for all requests at once, and tell ``watch`` of the tokens as they come."""
        ...


class Adaptor(Protocol):
    """What each module of a peer defines."""

    PACKAGES: tuple[str, ...]
    """Whose versions are reported."""

    def convert(self, source: Path, target: Path, precision: str) -> None:
        """Write what ``load`` reads into the folder ``target``."""
        ...

    def load(self, folder: Path, threads: int, precision: str) -> Engine: ...


def main(adaptor: Adaptor) -> None:
    """One of the two commands; whatever libraries print goes to stderr."""
    action, *rest = sys.argv[1:]
    results = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    if action == "convert":
        source, target, precision = rest
        adaptor.convert(Path(source), Path(target), precision)
        return
    folder, threads, precision = rest
    engine = adaptor.load(Path(folder), int(threads), precision)
    engine.run([Asked((1, 2, 3, 4), 1)], Stopwatch(1))
    print(json.dumps({"versions": {name: version(name) for name in adaptor.PACKAGES}}), file=results)
    for line in sys.stdin:
        asked = [Asked(tuple(prompt), length, at) for prompt, length, at in json.loads(line)]
        watch = Stopwatch(len(asked))
        engine.run(asked, watch)
        print(json.dumps(watch.results()), file=results)
