"""``fastserve serve`` on a model folder, in a process of its own, for benchmarks that ask over HTTP."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from fastserve_ray.serve.client import is_ready
from fastserve_ray.serve.ports import choose_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

HOST = "127.0.0.1"
START_TIMEOUT_S = 180.0
PRIORITY = {"RAY_worker_niceness": "0"}
"""Ray's 15 would give way to the client and to whatever else runs, and an engine without Ray would not."""


@contextmanager
def served(folder: Path, settings: Sequence[str] = ()) -> Iterator[str]:
    """The URL of a server that is ready; its log lies beside ``folder``.

    Args:
        settings: ``KEY=VALUE`` of the spec.
    """
    port = choose_port(HOST, 0)
    command = [sys.executable, "-m", "fastserve_ray.cli.main", "serve", str(folder), "--port", str(port)]
    log = folder.parent / "serve.log"
    with log.open("wb") as file:
        flags = [word for setting in settings for word in ("--set", setting)]
        process = subprocess.Popen([*command, *flags], stdout=file, stderr=file, env={**os.environ, **PRIORITY})
    url = f"http://{HOST}:{port}"
    try:
        _wait_until_ready(process, url, log)
        yield url
    finally:
        process.terminate()
        process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not is_ready(f"{url}/ready"):
        if process.poll() is not None or time.monotonic() > deadline:
            raise SystemExit(f"the server did not start:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.5)
