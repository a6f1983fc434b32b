"""Builds ``decoder.cpp``, which includes ``linears.cpp``, for this CPU, once, and loads it.

The result lies in the cache folder under a name made of the source, the flags and the compiler, so that a change of
any of them builds anew, and machines of one network file system that differ do not share. Where there is no compiler,
as in an image, ``FASTSERVE_NATIVE`` names a folder that `build_all` has filled. Without either, on another processor,
or when ``FASTSERVE_NATIVE=0`` is set, there is no library, and torch's own kernels are used.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from fastserve_ray.storage.cache import cache_root
from fastserve_ray.storage.lock import FileLock

logger = logging.getLogger(__name__)

SOURCES = tuple(Path(__file__).with_name(name) for name in ("decoder.cpp", "linears.cpp"))
"""The first is compiled and includes the second."""
BUILD_TIMEOUT_S = 120
VERSION = 2
"""Of the functions; `fs_version` must say the same."""
_FLAGS = ("-O3", "-fPIC", "-std=c++17", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off")
_AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma")
LEVELS: tuple[tuple[str, frozenset[str], tuple[str, ...]], ...] = (
    (
        "avx512-vnni",
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni"}),
        (*_AVX512, "-mavx512vnni"),
    ),
    ("avx512", frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq"}), _AVX512),
    ("avx2", frozenset({"avx2", "fma"}), ("-mavx2", "-mfma")),
)
"""(name, flags of /proc/cpuinfo that it needs, flags of the compiler), the fastest first."""

_POINTER, _INT64, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
_SIGNATURES = {
    "fs_pack_float": (_POINTER, _INT64, _INT64, _INT64, _INT64, _POINTER, _INT),
    "fs_pack_int8": (_POINTER, _INT64, _INT64, _INT, _POINTER, _INT),
    "fs_float": (_POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64, _INT64, _INT),
    "fs_mixed": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64, _INT64, _INT),
    "fs_layer_in": (*(_POINTER,) * 8, _INT64, _INT),
    "fs_layer_out": (_POINTER, _POINTER, _POINTER, _INT64, _INT),
    "fs_attend": (*(_POINTER,) * 6, _FLOAT, _POINTER, _INT64, _INT),
    "fs_int8": (_POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _POINTER, _INT64, _INT64, _INT64, _INT),
}


@cache
def load_library() -> ctypes.CDLL | None:
    """The kernels for this CPU, built if need be (some seconds, once a machine); None where there are none, which is
    logged with the reason."""
    if os.environ.get("FASTSERVE_NATIVE") == "0":
        return None
    level = next((level for level in LEVELS if level[1] <= cpu_flags()), None)
    if level is None:
        logger.info("no kernels of our own for this processor; torch's are used")
        return None
    try:
        return _open(_ready(level[0]) or _built(level[0], (*_FLAGS, *level[2])))
    except (OSError, subprocess.SubprocessError, RuntimeError) as error:
        logger.warning("our own kernels cannot be used (%s); torch's are slower at few rows", error)
        return None


def build_all(folder: Path) -> list[Path]:
    """Build for every processor that has kernels, whatever this one is; for ``FASTSERVE_NATIVE``.

    Raises:
        RuntimeError, OSError, subprocess.SubprocessError: there is no compiler, or it failed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    targets = {folder / _ready_name(name): flags for name, _, flags in LEVELS}
    for target, flags in targets.items():
        _compile(_compiler(), (*_FLAGS, *flags), target)
    return list(targets)


def _ready(level: str) -> Path | None:
    """What `build_all` has made of these very sources."""
    folder = os.environ.get("FASTSERVE_NATIVE")
    path = Path(folder, _ready_name(level)) if folder else None
    return path if path is not None and path.exists() else None


def _ready_name(level: str) -> str:
    return f"linears-{level}-{hashlib.sha256(_sources()).hexdigest()[:16]}.so"


def _sources() -> bytes:
    return b"".join(source.read_bytes() for source in SOURCES)


def _compiler() -> str:
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or shutil.which("c++")
    if compiler is None:
        raise RuntimeError("there is no C++ compiler; install g++ or set CXX")
    return compiler


def cpu_flags() -> frozenset[str]:
    """What the processor can do, in the words of /proc/cpuinfo; empty on other systems."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return frozenset()
    lines = (line for line in info.read_text().splitlines() if line.startswith("flags"))
    return frozenset(next(lines, "").partition(":")[2].split())


def _open(path: Path) -> ctypes.CDLL:
    """Load and declare the functions; their OpenMP is the one that comes with torch, which must be there first."""
    import torch  # noqa: F401

    library = ctypes.CDLL(str(path))
    if library.fs_version() != VERSION:
        raise RuntimeError(f"{path} is of another version")
    for name, arguments in _SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    for name in ("fs_panel", "fs_group"):
        getattr(library, name).restype = _INT64
    return library


def _built(level: str, flags: tuple[str, ...]) -> Path:
    """The path of the library; compiles it unless it is there.

    Raises:
        RuntimeError: there is no compiler.
        OSError, subprocess.SubprocessError: it failed.
    """
    compiler = _compiler()
    digest = hashlib.sha256(_sources() + "\0".join([compiler, *flags]).encode()).hexdigest()[:16]
    folder = cache_root() / "native"
    target = folder / f"linears-{level}-{digest}.so"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{target.name}.lock")
    lock.acquire()
    try:
        if not target.exists():
            _compile(compiler, flags, target)
    finally:
        lock.release()
    return target


def _compile(compiler: str, flags: tuple[str, ...], target: Path) -> None:
    """Compile beside ``target`` and move the result there, so that nobody sees half of it.

    Linked without OpenMP: a second runtime beside torch's would start threads of its own.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        compiled, linked = Path(folder, "linears.o"), Path(folder, "linears.so")
        _run([compiler, *flags, "-c", str(SOURCES[0]), "-o", str(compiled)])
        _run([compiler, "-shared", str(compiled), "-o", str(linked)])
        linked.replace(target)


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=BUILD_TIMEOUT_S, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise RuntimeError(f"{command[0]} failed: {lines[0]}")
