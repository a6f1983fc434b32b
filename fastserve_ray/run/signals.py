"""SIGTERM and Ctrl-C end a run the same way: KeyboardInterrupt unwinds the driver, which stops Ray and Serve."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType


@contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Within this block SIGTERM raises KeyboardInterrupt; a no-op outside the main thread, where no signals arrive."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    take_sigterm()
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def take_sigterm() -> None:
    """Set the handler; again after ``ray.init``, which sets its own."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt
