"""The checks of ``fastserve doctor``: each looks at one thing and says ok, warn or fail, and how to mend it."""

from __future__ import annotations

import math
import os
import shutil
import socket
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

Level = Literal["ok", "warn", "fail"]

GIB = 2**30
STORE_SHARE, STORE_THRESHOLD, SHARED_SHARE = 0.3, 10**10, 0.95
"""Ray's own: of the free memory, the bytes that no small shared memory keeps it from taking, of the shared memory."""
LEAST_STORE_MB = 80
"""Ray refuses less."""
DASHBOARD_PORT = 8265

TESTED = {
    "ray": "2.60.0",
    "torch": "2.13.0",
    "transformers": "5.23.0",
    "deepspeed": "0.19.8",
    "accelerate": "1.15.0",
    "pyarrow": "26.0.1",
    "pydantic": "2.14.3",
}
"""Versions that the tests run with."""

_OLDEST_PYTHON, _NEWEST_PYTHON = (3, 11), (3, 13)


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str
    level: Level
    found: str
    fix: str | None = None
    """What to do, when the level is not ok."""


@dataclass(frozen=True)
class Places:
    """What a run will use of this machine."""

    storage: str
    host: str
    port: int
    object_store_mb: int | None
    """None: Ray decides."""
    has_dashboard: bool
    """Whether an embedded Ray will listen on the dashboard's port."""


def run_checks(places: Places) -> list[Check]:
    """All checks. The only trace is the storage folder, made if it was not there."""
    import psutil

    return [
        check_python(sys.version_info[:3]),
        *check_packages(TESTED),
        check_cpu(_cpu_flags(Path("/proc/cpuinfo"))),
        check_gpus(),
        check_memory(),
        check_object_store(Path("/dev/shm"), psutil.virtual_memory().available, places.object_store_mb),
        check_disk(places.storage),
        check_storage(places.storage),
        check_port(places.host, places.port),
        *([check_dashboard_port()] if places.has_dashboard else []),
    ]


def check_python(version: tuple[int, ...]) -> Check:
    """Within the tested range."""
    found = ".".join(map(str, version))
    if _OLDEST_PYTHON <= version[:2] <= _NEWEST_PYTHON:
        return Check("python", "ok", found)
    return Check("python", "fail", found, "use Python 3.11 to 3.13: make install PYTHON=/path/to/python3.11")


def check_packages(tested: Mapping[str, str]) -> Iterator[Check]:
    """Installed, and of the tested minor version; read from metadata, nothing is imported."""
    for name, version in tested.items():
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            yield Check(name, "fail", "not installed", f"pip install '{name}=={version}', or make install")
            continue
        is_tested = found.split("+")[0].split(".")[:2] == version.split(".")[:2]
        fix = None if is_tested else f"tested with {version}: pip install -c constraints.txt {name}"
        yield Check(name, "ok" if is_tested else "warn", found, fix)


def check_cpu(flags: frozenset[str] | None) -> Check:
    """Vector and low-precision units."""
    count = os.cpu_count() or 1
    if flags is None:
        return Check("cpu", "ok", f"{count} cores; features unknown on this system")
    units = {
        "avx2": flags & {"avx2"},
        "avx512": flags & {"avx512f"},
        "vnni": flags & {"avx512_vnni", "avx_vnni", "i8mm"},
        "bf16": flags & {"avx512_bf16", "amx_bf16", "bf16"},
    }
    present = [name for name, found in units.items() if found]
    found = f"{count} cores; {', '.join(present) or 'none of avx2, avx512, vnni, bf16'}"
    if not units["bf16"]:
        return Check("cpu", "ok", f"{found} (no bf16 units: on this CPU train with precision: fp32)")
    return Check("cpu", "ok", found)


def check_gpus() -> Check:
    """What ``nvidia-smi`` lists."""
    from fastserve_ray.plan.resources import list_gpus

    gpus = list_gpus()
    names = [line.split(": ", 1)[-1].split(" (UUID")[0] for line in gpus]
    return Check("gpu", "ok", f"{len(gpus)} ({', '.join(names)})" if gpus else "none; everything runs on the CPU")


def check_memory() -> Check:
    """Free memory."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    level = _level(memory.available, fail=1 * GIB, warn=4 * GIB)
    return Check("memory", level, found, None if level == "ok" else "close programs; Ray and torch want 4 GiB")


def check_object_store(folder: Path, available: int, asked_mb: int | None) -> Check:
    """What Ray takes for its object store, against the shared memory that it lies in; where that is too small, Ray
    falls back to a file in /tmp, which is slow.

    Args:
        folder: of the shared memory.
        available: bytes of memory.
        asked_mb: ``cluster.object_store_memory_mb``; None: as ``ray._private.utils.resolve_object_store_memory``.
    """
    if not folder.is_dir():
        return Check("object store", "ok", f"no {folder} on this system")
    free = shutil.disk_usage(folder).free
    size = asked_mb * 2**20 if asked_mb else min(available * STORE_SHARE, max(STORE_THRESHOLD, free * SHARED_SHARE))
    whose = "cluster.object_store_memory_mb" if asked_mb else f"Ray's {STORE_SHARE:.0%} of the free memory"
    found = f"{size / GIB:.1f} GiB ({whose}), {free / GIB:.1f} GiB of shared memory free in {folder}"
    if size <= free:
        return Check("object store", "ok", found)
    fits = int(free * SHARED_SHARE / 2**20)
    fix = f"in a container --shm-size={math.ceil(size / GIB)}g; or cluster.object_store_memory_mb: {fits}"
    return Check("object store", "warn", found, fix if fits >= LEAST_STORE_MB else fix.partition(";")[0])


def check_disk(storage: str) -> Check:
    """Free space where storage lies."""
    from fastserve_ray.plan.inputs import local_path

    path = local_path(storage)
    if path is None:
        return Check("disk", "ok", f"{storage} is not a local disk")
    folder = Path(path).expanduser().absolute()
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    level = _level(free, fail=1 * GIB, warn=5 * GIB)
    fix = None if level == "ok" else "make room, or set storage to another disk"
    return Check("disk", level, f"{free / GIB:.1f} GiB free at {folder}", fix)


def check_storage(storage: str) -> Check:
    """A small file can be written and deleted."""
    from fastserve_ray.errors import StorageError
    from fastserve_ray.storage.filesystem import Storage

    try:
        Storage.open(storage).check_writable()
    except StorageError as error:
        fix = error.hint or "set storage to a place you can write to"
        return Check("storage", "fail", f"{error.what} ({error.value or storage})", fix)
    return Check("storage", "ok", f"{storage} can be written to")


def check_port(host: str, port: int) -> Check:
    """Nothing else listens where the endpoint will."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            fix = "stop what listens there, or take another port: --set serve.port=0 takes a free one"
            return Check("port", "warn", f"{host}:{port} cannot be had ({error.strerror or error})", fix)
    return Check("port", "ok", f"{host}:{port} is free")


def check_dashboard_port() -> Check:
    """Ray's dashboard takes the next free port by itself."""
    found = check_port("127.0.0.1", DASHBOARD_PORT)
    if found.level == "ok":
        return Check("dashboard port", "ok", found.found)
    words = f"{DASHBOARD_PORT} is taken, perhaps by another Ray; an embedded Ray takes the next free one"
    return Check("dashboard port", "ok", words)


def _level(amount: float, *, fail: float, warn: float) -> Level:
    if amount < fail:
        return "fail"
    return "warn" if amount < warn else "ok"


def _cpu_flags(cpuinfo: Path) -> frozenset[str] | None:
    """Feature names of the first core; None where the system has no such file."""
    if not cpuinfo.is_file():
        return None
    for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return frozenset(value.split())
    return frozenset()
