"""How much memory one training worker may take: that of its GPU, or its share of the node."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.plan.words import size_in_words
from fastserve_ray.spec.nodes import bytes_of

if TYPE_CHECKING:
    from fastserve_ray.spec.run import RunSpec

MIB = 2**20
USABLE = 0.9
"""Part of a node's or GPU's memory that is planned with. Ray kills workers when 95 % of a node are taken."""
RAY_BYTES = 3 * 2**29
"""Ray's own processes and the driver on an embedded Ray."""
PROCESS_BYTES = 5 * 2**27
"""A worker before it has a model: Python with torch, transformers and DeepSpeed."""
CUDA_BYTES = 2**29
"""The CUDA context and the libraries' workspaces in the memory of a GPU."""
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Budget:
    """What one worker may take."""

    bytes: int
    words: str
    """Where it comes from."""


def worker_budget(spec: RunSpec, ranks: int) -> Budget | None:
    """For each of ``ranks`` workers; None when the memory of the machines is not known.

    Workers on CPUs are all counted on one node, which is where Ray puts them while they fit; on nodes that the file
    describes, as many as one holds.
    """
    assert spec.train is not None
    gpus = spec.train.resources_per_worker.GPU
    return _of_gpu(spec, gpus) if gpus else _of_node(spec, ranks)


def _of_gpu(spec: RunSpec, gpus: float) -> Budget | None:
    total = _given(spec.cluster.gpu_memory_mb) or (_gpu_bytes() if spec.cluster.address == "local" else None)
    if total is None:
        return None
    part = min(1.0, gpus)  # a worker trains on one GPU, however many it reserves
    each = max(0, int(USABLE * total * part) - CUDA_BYTES)
    of = "a GPU" if part == 1 else f"{part:g} GPU"
    return Budget(each, f"{USABLE:.0%} of the {size_in_words(int(total * part))} of {of}, less {_GPU_OVERHEAD}")


def _of_node(spec: RunSpec, ranks: int) -> Budget | None:
    total = _given(spec.cluster.memory_mb) or (machine_bytes() if spec.cluster.address == "local" else None)
    return _of_described_nodes(spec, ranks) if total is None else _share(total, ranks)


def _share(total: int, ranks: int) -> Budget:
    """Of a node with ``total`` bytes."""
    each = max(0, (int(USABLE * total) - RAY_BYTES) // ranks - PROCESS_BYTES)
    share = f"over {ranks} workers, " if ranks > 1 else ""
    return Budget(each, f"{USABLE:.0%} of the node's {size_in_words(total)}, {share}less {_NODE_OVERHEAD}")


def _of_described_nodes(spec: RunSpec, ranks: int) -> Budget | None:
    """The least, of the types that can hold a worker; None when the memory of one of them is not given."""
    assert spec.train is not None
    each = spec.train.resources_per_worker
    places = {name: node.places(each.CPU, each.GPU) for name, node in spec.cluster.working_types.items()}
    sizes = {name: spec.cluster.working_types[name].resources.memory for name, held in places.items() if held}
    shares = [_share(bytes_of(size), min(ranks, places[name])) for name, size in sizes.items() if size is not None]
    if not shares or len(shares) < len(sizes):
        return None
    return min(shares, key=lambda budget: budget.bytes)


_GPU_OVERHEAD = f"{size_in_words(CUDA_BYTES)} for CUDA"
_NODE_OVERHEAD = f"{size_in_words(RAY_BYTES)} for Ray and {size_in_words(PROCESS_BYTES)} a process"


def machine_bytes() -> int | None:
    """Memory of this machine, or of the container when that has less; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None
    return min([total, *(limit for path in _CGROUP_LIMITS if (limit := _limit(Path(path))) is not None)])


def _limit(path: Path) -> int | None:
    """``max`` means none."""
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _gpu_bytes() -> int | None:
    """Of the smallest GPU that ``nvidia-smi`` lists."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    sizes = [int(line) for line in done.stdout.split() if line.isdigit()]
    return min(sizes) * MIB if sizes else None


def _given(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * MIB
