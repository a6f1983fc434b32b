"""A job that looks at every node of a cluster and prints what it found, as one line of JSON after `MARK`.

It is sent as a file and imports nothing of this package before it has to, so that it also runs where FastServe-Ray is
not installed, and says so.
"""

from __future__ import annotations

import json
import shutil
import sys
from importlib import metadata
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

MARK = "fastserve-node-report "
TIMEOUT_S = 120.0


def look(packages: list[str], storage: str | None) -> dict[str, Any]:
    """What one node has: versions (None: not installed), free bytes, and whether storage can be written there."""
    versions: dict[str, str | None] = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": ".".join(map(str, sys.version_info[:3])),
        "versions": versions,
        "shared_memory": shutil.disk_usage("/dev/shm").free,
        "disk": shutil.disk_usage("/tmp").free,
        "storage": None if storage is None else write(storage),
    }


def write(storage: str) -> str:
    """``ok``, or why nothing can be written."""
    try:
        from fastserve_ray.storage.filesystem import Storage

        Storage.open(storage).check_writable()
    except Exception as error:  # noqa: BLE001 (whatever it is, it is what the report is for)
        return str(error).partition("\n")[0] or type(error).__name__
    return "ok"


def main(packages: list[str], storage: str | None) -> None:
    ray.init(log_to_driver=False)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    task = ray.remote(look)
    found = [
        task.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            packages, storage
        )
        for node in nodes
    ]
    reports = ray.get(found, timeout=TIMEOUT_S)
    addresses = [node["NodeManagerAddress"] for node in nodes]
    print(MARK + json.dumps([{"ip": ip, **report} for ip, report in zip(addresses, reports, strict=True)]))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), json.loads(sys.argv[2]))
