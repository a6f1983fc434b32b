"""What ZeRO splits, elsewhere: in host memory (ZeRO-Offload, arXiv 2101.06840) or in files on a disk (the idea of
ZeRO-Infinity, arXiv 2104.07857; see ``disk_states.py``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import TrainingError

if TYPE_CHECKING:
    from fastserve_ray.spec import ParallelSpec

_FOLDER = "train.parallel.offload_folder"
_MOUNTS = Path("/proc/self/mountinfo")
IN_MEMORY = ("tmpfs", "ramfs")
"""File systems whose files are host memory."""


def offload_settings(parallel: ParallelSpec, *, on_gpu: bool) -> dict[str, Any]:
    """Keys of DeepSpeed's ``zero_optimization``: the optimizer's state and the master weights go to host memory, and
    with stage 3 the weights too.

    States for a disk are mapped files, which the host sees as its memory. On a CPU they need nothing of DeepSpeed,
    whose offload would only add a buffer for the gradients.
    """
    if parallel.offload == "none" or (parallel.offload == "nvme" and not on_gpu):
        return {}
    place: dict[str, Any] = {"device": "cpu", "pin_memory": False}
    settings = {"offload_optimizer": place}
    return settings | ({"offload_param": dict(place)} if parallel.zero == 3 else {})


def refuse_unavailable(parallel: ParallelSpec) -> None:
    """Check this machine before anything is exchanged.

    Raises:
        TrainingError: the folder cannot be written, or its files are host memory.
    """
    if parallel.offload != "nvme":
        return
    folder = Path(str(parallel.offload_folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unusable(folder, error) from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise _refused(folder, "this folder cannot be written")
    kind = file_system(folder)
    if kind in IN_MEMORY:
        raise _refused(folder, f"files in this folder lie in host memory ({kind})")


def unusable(folder: Path, error: OSError) -> TrainingError:
    """What to tell when the machine said ``error``."""
    return _refused(folder, f"states cannot be kept in this folder ({error.strerror})")


def file_system(folder: Path) -> str:
    """The kind that ``folder`` lies on, such as ext4; empty where the kernel does not tell."""
    device = folder.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text().splitlines() if _MOUNTS.exists() else ():
        fields = line.split()
        if fields[2] == wanted:
            return fields[fields.index("-") + 1]
    return ""


def _refused(folder: Path, what: str) -> TrainingError:
    allowed = "a folder on a local disk that every worker can write to, with room for the states"
    return TrainingError(what, value=str(folder), allowed=allowed, key=_FOLDER)
