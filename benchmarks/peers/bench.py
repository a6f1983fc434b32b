"""Measures peers: converts the model for each, starts each alone, then all in turn."""

from __future__ import annotations

import os
import shutil
import subprocess
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from benchmarks.peers.environments import OUR_ENVIRONMENT, python_of
from benchmarks.peers.process import Command, PeerError, PeerProcess
from benchmarks.peers.table import Measured, batch_speed, decode_speed
from benchmarks.peers.weights import make_model_folder
from benchmarks.peers.workload import mixed_batch, single_decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from contextlib import AbstractContextManager
    from pathlib import Path

    from benchmarks.peers.workload import Asked, Shape, Workload

WARM_UP_LENGTH = 8
DONE = "converted"
"""Published last in a converted folder."""


@dataclass(frozen=True)
class Peer:
    """One engine in one precision."""

    module: str
    environment: str
    precision: str

    @property
    def is_ours(self) -> bool:
        return self.module == "ours"


PEERS = {
    "ours fp32": Peer("ours", OUR_ENVIRONMENT, "fp32"),
    "ours int8-weight-only": Peer("ours", OUR_ENVIRONMENT, "int8-weight-only"),
    "ours int8-dynamic": Peer("ours", OUR_ENVIRONMENT, "int8-dynamic"),
    "ours int8-dynamic+head": Peer("ours", OUR_ENVIRONMENT, "int8-dynamic+head"),
    "openvino fp32": Peer("openvino", "openvino", "fp32"),
    "openvino int8": Peer("openvino", "openvino", "int8"),
    "openvino bf16": Peer("openvino", "openvino", "bf16"),
    "vllm fp32": Peer("vllm", "vllm", "fp32"),
    "vllm int8": Peer("vllm", "vllm", "int8"),
    "vllm bf16": Peer("vllm", "vllm", "bf16"),
    "llama.cpp fp32": Peer("llama_cpp", "llama_cpp", "fp32"),
    "llama.cpp q8_0": Peer("llama_cpp", "llama_cpp", "q8_0"),
    "hf generate fp32": Peer("hugging_face", OUR_ENVIRONMENT, "fp32"),
}


@dataclass(frozen=True)
class Bench:
    """One run of the benchmark."""

    folder: Path
    shape: Shape
    threads: int
    rounds: int
    starts: int
    """Of each engine alone, for its memory and the seconds until it is ready."""
    timeout: float
    lock: Callable[[], AbstractContextManager[object]]
    """Held while something is measured."""

    def command(self, peer: Peer, *arguments: str) -> Command:
        return Command(
            python_of(peer.environment, self.folder),
            f"benchmarks.peers.{peer.module}",
            arguments,
            self.folder / "logs" / f"{self.shape.name}-{peer.module}-{peer.precision}-{arguments[0]}.log",
        )

    def model_folder(self, peer: Peer) -> Path:
        """A peer's own files: PSS would halve what two processes map of one file."""
        return self.folder / "models" / self.shape.name / f"{peer.module}-{peer.precision}"

    def prepare(self, peer: Peer) -> None:
        """Make the model, and convert it for a peer, unless that is done.

        Raises:
            PeerError: the peer has no environment, or cannot convert it.
        """
        source, target = self.folder / "models" / self.shape.name / "source", self.model_folder(peer)
        command = self.command(peer, "convert", str(source), str(target), peer.precision)
        command.check()
        if not (source / DONE).exists():
            make_model_folder(self.shape, source)
            (source / DONE).touch()
        if not (target / DONE).exists():
            shutil.rmtree(target, ignore_errors=True)
            target.mkdir(parents=True)
            self._convert(command)
            (target / DONE).touch()

    def _convert(self, command: Command) -> None:
        process = command.popen(self.threads)
        try:
            process.communicate(timeout=self.timeout)
        except subprocess.TimeoutExpired as error:
            process.kill()
            raise PeerError(f"its model was not converted in {self.timeout:.0f} s") from error
        if process.returncode != 0:
            raise PeerError(f"its model could not be converted: {command.last_line()}")

    def start(self, peer: Peer) -> PeerProcess:
        arguments = (str(self.model_folder(peer)), str(self.threads), peer.precision)
        return PeerProcess(self.command(peer, "serve", *arguments), threads=self.threads, timeout=self.timeout)

    def measure_alone(self, peer: Peer, result: Measured) -> None:
        """Seconds until ready, and memory over one batch."""
        with self.lock():
            process = self.start(peer)
            try:
                process.run(self._draw(mixed_batch(), 0))
            finally:
                process.stop()
        result.ready_seconds.append(process.ready_seconds)
        result.peak_bytes = process.memory.peak_bytes

    def warm_up(self, process: PeerProcess) -> None:
        """All prompts of a batch, and a few tokens each."""
        process.run([replace(asked, length=WARM_UP_LENGTH) for asked in self._draw(mixed_batch(), 0)])

    def measure_round(self, number: int, process: PeerProcess, result: Measured) -> None:
        """One batch and one single request."""
        with self.lock():
            result.batches.append(process.run(self._draw(mixed_batch(), number)))
            result.singles += process.run(self._draw(single_decode(), number))
        result.idle_share = process.idle_share

    def _draw(self, workload: Workload, seed: int) -> list[Asked]:
        return workload.draw(self.shape.vocab_size, seed)


@contextmanager
def noting_failure(result: Measured) -> Iterator[None]:
    """A peer that cannot be run says why in its row."""
    try:
        yield
    except PeerError as error:
        result.failure = str(error)


def measure_all(bench: Bench, names: Sequence[str], say: Callable[[str], None]) -> dict[str, Measured]:
    """Everything about the peers ``names``, in their order; one that fails says why, and the others go on."""
    measured = {name: Measured(PEERS[name].precision, PEERS[name].is_ours) for name in names}
    for name, result in measured.items():
        with noting_failure(result):
            bench.prepare(PEERS[name])
            for _ in range(bench.starts):
                bench.measure_alone(PEERS[name], result)
            say(f"{name}: started alone {bench.starts} times")
    _measure_in_turn(bench, {name: result for name, result in measured.items() if result.failure is None}, say)
    return measured


def _measure_in_turn(bench: Bench, measured: dict[str, Measured], say: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        processes: dict[str, PeerProcess] = {}
        for name, result in measured.items():
            with noting_failure(result), bench.lock():
                processes[name] = bench.start(PEERS[name])
                stack.callback(processes[name].stop)
                processes[name].memory.stop()
                bench.warm_up(processes[name])
                result.versions = processes[name].versions
                result.ready_seconds.append(processes[name].ready_seconds)
        for number in range(1, bench.rounds + 1):
            for name, process in processes.items():
                if measured[name].failure is None:
                    with noting_failure(measured[name]):
                        bench.measure_round(number, process, measured[name])
                        say(f"round {number}, {name}: {_last_round(measured[name])}")
            say(f"round {number} of {bench.rounds}, load average {os.getloadavg()[0]:.1f}")


def _last_round(result: Measured) -> str:
    batch, single = batch_speed(result.batches[-1]), decode_speed(result.singles[-1])
    return f"{batch:.1f} tok/s in a batch, {single:.1f} alone"
