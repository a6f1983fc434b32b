"""One holder at a time, and none after a holder's death."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from fastserve_ray.storage.lock import FileLock


def test_a_held_lock_is_refused_to_others(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "sub" / "lock"), FileLock(tmp_path / "sub" / "lock")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()


def test_a_killed_holder_frees_the_lock(tmp_path: Path) -> None:
    script = """
import sys, time
from pathlib import Path
from fastserve_ray.storage.lock import FileLock
FileLock(Path(sys.argv[1])).acquire()
kept = FileLock(Path(sys.argv[1] + "2"))
kept.acquire()
print("held", flush=True)
time.sleep(60)
"""
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        lock = FileLock(Path(f"{path}2"))
        assert not lock.try_acquire()
        holder.kill()
        holder.wait()
        assert lock.try_acquire()
        lock.release()
