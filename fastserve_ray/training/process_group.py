"""A torch process group for Ray Train workers, set up without torch in the driver and in Ray's controller.

Ray's own ``TorchConfig`` imports torch wherever it is unpickled: two more processes that spend two seconds of a core
each before a worker can start.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import psutil
from ray.train.backend import Backend, BackendConfig

if TYPE_CHECKING:
    from ray.train._internal.base_worker_group import BaseWorkerGroup

TIMEOUT_MINUTES = 30
"""How long a worker waits for the others in one exchange."""


@dataclass
class ProcessGroupConfig(BackendConfig):
    """nccl between GPUs, gloo between CPUs."""

    uses_gpu: bool = False

    @property
    def backend_cls(self) -> type[Backend]:
        return ProcessGroupBackend


class ProcessGroupBackend(Backend):
    """Called in the controller, with handles of the workers."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        import ray
        from ray.train._internal.utils import get_address_and_port

        assert isinstance(backend_config, ProcessGroupConfig)
        address, port = worker_group.execute_single(0, get_address_and_port)
        library = "nccl" if backend_config.uses_gpu else "gloo"
        ray.get(
            [worker_group.execute_single_async(rank, join, library, address, port) for rank in range(len(worker_group))]
        )

    def on_shutdown(self, worker_group: BaseWorkerGroup, backend_config: BackendConfig) -> None:
        """The workers' processes end, and their sockets with them."""


def join(library: str, address: str, port: int) -> None:
    """In a worker: meet the others. The environment is what DeepSpeed and accelerate read."""
    import ray.train
    import ray.util
    import torch.distributed as dist

    context: Any = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    if context.get_local_world_size() < size:
        name_interface(ray.util.get_node_ip_address())
    os.environ.update(
        MASTER_ADDR=address,
        MASTER_PORT=str(port),
        RANK=str(rank),
        WORLD_SIZE=str(size),
        LOCAL_RANK=str(context.get_local_rank()),
        LOCAL_WORLD_SIZE=str(context.get_local_world_size()),
        NODE_RANK=str(context.get_node_rank()),
    )
    dist.init_process_group(library, rank=rank, world_size=size, timeout=timedelta(minutes=TIMEOUT_MINUTES))


def name_interface(address: str) -> None:
    """Make gloo listen where the other nodes reach this one; what a user has set stays.

    By itself gloo listens at the address that the machine's name resolves to, which is a loopback address wherever
    /etc/hosts says so (as Debian's installer writes it).

    Args:
        address: this node's, as Ray knows it.
    """
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address == address for each in addresses):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
