"""ZeRO's states in host memory or on a disk (ZeRO-Offload, arXiv 2101.06840; ZeRO-Infinity, arXiv 2104.07857)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import TrainingError

if TYPE_CHECKING:
    from fastserve_ray.spec import ParallelSpec


def offload_settings(parallel: ParallelSpec) -> dict[str, Any]:
    """Keys of DeepSpeed's ``zero_optimization``: the optimizer's state and the master weights go, and with stage 3 the
    weights too."""
    if parallel.offload == "none":
        return {}
    place: dict[str, Any] = {"device": parallel.offload}
    if parallel.offload == "nvme":
        place["nvme_path"] = parallel.offload_folder
    else:
        place["pin_memory"] = False
    settings = {"offload_optimizer": place}
    return settings | ({"offload_param": dict(place)} if parallel.zero == 3 else {})


def refuse_unavailable(parallel: ParallelSpec) -> None:
    """Check this machine before anything is exchanged.

    Raises:
        TrainingError: DeepSpeed's operator for disks cannot be built here, or the folder cannot be written.
    """
    if parallel.offload != "nvme":
        return
    from deepspeed.ops.op_builder import AsyncIOBuilder

    if not AsyncIOBuilder().is_compatible(verbose=False):
        raise TrainingError(
            "DeepSpeed's async_io operator cannot be built on this machine: it needs libaio's headers and library",
            value="nvme",
            allowed="none, cpu",
            key="train.parallel.offload",
            hint="install libaio-dev (Debian, Ubuntu) or libaio-devel (Fedora), or name it in CFLAGS and LDFLAGS",
        )
    folder = Path(str(parallel.offload_folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(
            f"this folder cannot be used ({error.strerror})",
            value=str(folder),
            allowed="a folder on a local disk that every worker can write to",
            key="train.parallel.offload_folder",
        ) from error
