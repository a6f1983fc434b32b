"""Waiting for what other processes do."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

POLL_S = 0.02
_T = TypeVar("_T")


def wait_for(condition: Callable[[], _T], seconds: float, what: str) -> _T:
    """Until the condition holds; what it then is. After so many seconds the test has failed: ``what`` did not come
    true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_S)
    return found
