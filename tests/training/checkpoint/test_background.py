"""Checkpoints that are written while training goes on."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import StorageError
from fastserve_ray.training.checkpoint.background import BackgroundWriter
from fastserve_ray.training.checkpoint.slices import Snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

SNAPSHOT = Snapshot.take([], {"step": 1}, rank=0, num_ranks=1)


def test_training_does_not_wait_and_the_last_one_is_complete_at_the_end() -> None:
    gate, written = threading.Event(), list[int]()

    def write(step: int, snapshot: Snapshot) -> None:
        gate.wait()
        written.append(step)

    writer = BackgroundWriter(write)
    writer(5, SNAPSHOT)
    writer.check()
    assert written == []
    gate.set()
    writer.close()
    assert written == [5]


def test_one_is_in_flight_at_a_time() -> None:
    active, most, lock = 0, 0, threading.Lock()

    def write(step: int, snapshot: Snapshot) -> None:
        nonlocal active, most
        with lock:
            active += 1
            most = max(most, active)
        with lock:
            active -= 1

    writer = BackgroundWriter(write)
    for step in range(20):
        writer(step, SNAPSHOT)
    writer.close()
    assert most == 1


def ask_on(writer: BackgroundWriter) -> None:
    while True:
        writer.check()


@pytest.mark.parametrize("ask", [ask_on, BackgroundWriter.close, lambda writer: writer(10, SNAPSHOT)])
def test_what_the_thread_meets_reaches_training_once(ask: Callable[[BackgroundWriter], None]) -> None:
    is_broken = [True]

    def write(step: int, snapshot: Snapshot) -> None:
        if is_broken.pop():
            raise StorageError("cannot write the checkpoint", key="storage")

    writer = BackgroundWriter(write)
    writer(5, SNAPSHOT)
    with pytest.raises(StorageError, match="cannot write"):
        ask(writer)
    writer.close()
