"""Run ``fastserve`` in this process or in one of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.cli.main import main

if TYPE_CHECKING:
    import pytest


@dataclass(frozen=True)
class Outcome:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Standard output as JSON."""
        return json.loads(self.out)


def fastserve(capsys: pytest.CaptureFixture[str], *arguments: str) -> Outcome:
    """Run in this process."""
    code = main(arguments)
    captured = capsys.readouterr()
    return Outcome(code, captured.out, captured.err)


def fastserve_process(*arguments: str) -> Outcome:
    """Run in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "fastserve_ray.cli.main", *arguments], capture_output=True, text=True, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
