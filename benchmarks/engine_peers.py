"""Our generate engine against the engines that a user would pick instead: speed, time until ready, memory.

OpenVINO GenAI, vLLM on the CPU, llama.cpp and Hugging Face's ``generate``, each in a process and a Python environment
of its own, on the same random weights (Qwen2's shape, 386.6 million parameters). A batch: 16 requests of 32 to 256
tokens in and 16 to 128 out, all there at once, greedy, end tokens ignored. Decode: one request alone, after its first
token. Prompts are new in every round, so that no prefix cache helps; every engine must give back as many tokens as were
asked for; a padded batch's surplus counts for nothing. All processes stay loaded, idle, while the others run, and take
their rounds in turn; figures are medians. Before that each is started alone, for its memory (peak PSS until it has run
one batch) and the seconds until it has answered a first request. "same tokens" is the share of tokens, up to the first
that differs, that agree with our float32: below 100% rounding decides between near equals.

    python -m benchmarks.engine_peers --install [--environments FOLDER]      once: makes the environments
    python -m benchmarks.engine_peers [--quick] [--json FILE] [--threads N] [--peers NAME,NAME] [--rounds N]
                                     [--environments FOLDER] [--lock FILE]
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.common import make_parser, report
from benchmarks.peers.bench import PEERS, Bench, measure_all
from benchmarks.peers.environments import ENVIRONMENTS, install
from benchmarks.peers.table import all_versions, table_rows
from benchmarks.peers.workload import FULL_SHAPE, QUICK_SHAPE

if TYPE_CHECKING:
    from argparse import ArgumentParser, Namespace
    from collections.abc import Iterator

DEFAULT_FOLDER = Path("runs/peers")


def parser() -> ArgumentParser:
    flags = make_parser(__doc__)
    flags.add_argument("--install", action="store_true", help="make the environments, and end")
    flags.add_argument("--environments", type=Path, default=DEFAULT_FOLDER, metavar="FOLDER", help="where they are")
    flags.add_argument("--peers", type=names, default=tuple(PEERS), help=f"of {', '.join(PEERS)}; or their beginnings")
    flags.add_argument("--threads", type=int, default=2)
    flags.add_argument("--rounds", type=int, default=3, help="after a short one that warms up")
    flags.add_argument("--starts", type=int, default=1, help="of each alone; 0: no memory")
    flags.add_argument(
        "--timeout", type=float, default=900, metavar="SECONDS", help="of one conversion, start or round"
    )
    flags.add_argument("--lock", type=Path, metavar="FILE", help="lock it while measuring (flock), for neighbours")
    return flags


def names(text: str) -> tuple[str, ...]:
    """The peers that begin with one of ``text``'s words, in the table's order."""
    words = tuple(text.split(","))
    return tuple(name for name in PEERS if name.startswith(words))


@contextmanager
def holding(file: Path | None) -> Iterator[None]:
    """Holds an exclusive lock on ``file``, where one is given."""
    if file is None:
        yield
        return
    with file.open("a") as handle:
        flock(handle, LOCK_EX)
        yield


def install_all(folder: Path) -> int:
    """Make every environment; how many could not be made."""
    failures = {name: install(name, folder) for name in ENVIRONMENTS}
    for name, failure in failures.items():
        print(f"{name}: {'ready' if failure is None else failure}")
    return sum(failure is not None for failure in failures.values())


def run(options: Namespace) -> None:
    bench = Bench(
        folder=options.environments.resolve(),
        shape=QUICK_SHAPE if options.quick else FULL_SHAPE,
        threads=options.threads,
        rounds=options.rounds,
        starts=options.starts,
        timeout=options.timeout,
        lock=lambda: holding(options.lock),
    )
    load = os.getloadavg()[0]
    measured = measure_all(bench, options.peers, lambda text: print(text, file=sys.stderr, flush=True))
    title = f"{bench.shape.name}, {bench.threads} threads, {bench.rounds} rounds, load average {load:.1f} before"
    print(f"versions: {all_versions(measured)}")
    report(title, table_rows(measured), json_file=options.json)


def main() -> None:
    options = parser().parse_args()
    if options.install:
        raise SystemExit(install_all(options.environments))
    run(options)


if __name__ == "__main__":
    main()
