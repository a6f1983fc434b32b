"""``cluster``: where Ray runs."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import PositiveInt, Section


class ClusterSpec(Section):
    """An embedded Ray on this machine, or a Ray that already runs."""

    address: Literal["local", "auto"] = "local"
    """local starts a Ray of its own and stops it at the end; auto joins the Ray that runs on this machine."""
    num_cpus: PositiveInt | None = None
    """CPUs that the embedded Ray offers; default: what the machine has."""
    num_gpus: Annotated[int, Field(ge=0)] | None = None
    """GPUs that the embedded Ray offers; default: what the machine has."""
    memory_mb: PositiveInt | None = None
    """Memory of one node in MiB, for the check that training fits; default: that of this machine, for an embedded
    Ray."""
    gpu_memory_mb: PositiveInt | None = None
    """Memory of one GPU in MiB, for the same check; default: what nvidia-smi says on this machine, for an embedded
    Ray."""
    object_store_memory_mb: Annotated[int, Field(ge=80)] | None = None
    """Shared memory of the embedded Ray's object store in MiB; default: Ray's (30 % of the memory)."""
    include_dashboard: bool = True
    """Start Ray's dashboard with the embedded Ray."""
