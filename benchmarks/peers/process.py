"""The side of the benchmark: a peer's process, asked round by round, and its memory."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import threading
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers.workload import Asked

SAMPLE_SECONDS = 0.5


class PeerError(Exception):
    """A peer cannot be run; the message says why."""


@dataclass(frozen=True)
class Result:
    """One request's."""

    first: float
    """Seconds from the beginning of the round until its first token came."""
    seconds: float
    """Seconds until its last token came, likewise."""
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Command:
    """How a peer is started: the interpreter of its environment, its module, and the module's arguments."""

    python: Path
    module: str
    arguments: tuple[str, ...]
    log: Path
    """What the peer prints."""

    def check(self) -> None:
        """Raises:
        PeerError: there is no such environment.
        """
        if not self.python.exists():
            raise PeerError(f"no environment {self.python.parent.parent} (make it with --install)")

    def popen(self, threads: int) -> subprocess.Popen[bytes]:
        """Start it; see `check`."""
        self.check()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}
        with self.log.open("wb") as log:
            return subprocess.Popen(
                [str(self.python), "-m", self.module, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment,
            )

    def last_line(self) -> str:
        """Of the log: most often the exception."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip() if lines else "no message"


class PeerProcess:
    """A loaded engine in a process of its own; idle between rounds."""

    def __init__(self, command: Command, *, threads: int, timeout: float) -> None:
        """Start it and wait until it has answered a first request.

        Raises:
            PeerError: it ended before, or took longer than ``timeout`` seconds.
        """
        self._command = command
        self._timeout = timeout
        begin = perf_counter()
        self._process = command.popen(threads)
        self.memory = MemoryWatch(self._process.pid)
        try:
            self.versions: dict[str, str] = self._read()["versions"]
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = perf_counter() - begin
        self._idle_since: tuple[float, float] | None = None
        self._idle_seconds = self._idle_cpu_seconds = 0.0

    def run(self, asked: Sequence[Asked]) -> list[Result]:
        """Run requests together; each comes at its time, where the peer takes times, else all at once.

        Raises:
            PeerError: it ended, took too long, or did not generate as many tokens as were asked for.
        """
        assert self._process.stdin is not None
        self._end_idle()
        try:
            self._process.stdin.write(
                json.dumps([[request.prompt, request.length, request.at] for request in asked]).encode()
            )
            self._process.stdin.write(b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise PeerError(self._command.last_line()) from error
        results = [Result(row["first"], row["seconds"], tuple(row["tokens"])) for row in self._read()]
        self._idle_since = perf_counter(), self._cpu_seconds()
        counts, lengths = [len(result.tokens) for result in results], [request.length for request in asked]
        if counts != lengths:
            raise PeerError(f"generated {counts} tokens where {lengths} were asked for")
        return results

    @property
    def idle_share(self) -> float:
        """Processor time between its rounds, as a share of one core: what it takes from the others by waiting."""
        return self._idle_cpu_seconds / self._idle_seconds if self._idle_seconds else 0.0

    def stop(self) -> None:
        """End it, whatever it does."""
        self.memory.stop()
        self._process.kill()
        self._process.communicate()

    def _end_idle(self) -> None:
        if self._idle_since is not None:
            self._idle_seconds += perf_counter() - self._idle_since[0]
            self._idle_cpu_seconds += self._cpu_seconds() - self._idle_since[1]

    def _cpu_seconds(self) -> float:
        """Of all its threads, since it started."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _read(self) -> Any:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._timeout):
                raise PeerError(f"no answer in {self._timeout:.0f} s")
        line = self._process.stdout.readline()
        if not line:
            raise PeerError(self._command.last_line())
        return json.loads(line)


class MemoryWatch:
    """The largest proportional set size (PSS) of a process, sampled.

    PSS counts each page of a file that others map too in parts; alone on the machine it is what the process adds.
    """

    def __init__(self, pid: int) -> None:
        self._file = Path(f"/proc/{pid}/smaps_rollup")
        self._is_over = threading.Event()
        self.peak_bytes = 0
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop sampling; it costs some milliseconds each time."""
        self._is_over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._is_over.wait(SAMPLE_SECONDS):
            try:
                text = self._file.read_text()
            except OSError:
                return
            self.peak_bytes = max(self.peak_bytes, proportional_bytes(text))


def proportional_bytes(rollup: str) -> int:
    """PSS from the text of ``/proc/PID/smaps_rollup``."""
    sizes = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(sizes[0]) * 1024 if sizes else 0
