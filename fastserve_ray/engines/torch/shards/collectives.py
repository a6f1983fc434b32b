"""What the shards of one model say to each other, over torch.distributed.

Two process groups, made without touching torch's default group, so that several engines can live in one process:
``tensors`` for what the layers exchange in the middle of a step, with a deadline (gloo, or NCCL between GPUs), and
``control`` (always gloo) for what rank 0 tells the others between steps, without one, since an idle engine is silent
for hours. A process that dies closes its gloo connections, which ends the waiting of all others at once; NCCL notices
at the deadline, when torch's watchdog ends the process.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import AllreduceOptions, BroadcastOptions, PrefixStore, ProcessGroupGloo, is_nccl_available

from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

MESSAGE_BYTES = 8192
"""A control message travels in one broadcast of this size, with its length in front; the rest of a longer one follows
in a second."""
_LENGTH_BYTES = 8
_NO_DEADLINE = timedelta(days=365)
JOIN_S = 300.0
"""What ranks wait for one another until all have started, and until all have loaded."""
CPU = torch.device("cpu")


class Collectives:
    """Not thread-safe; all ranks make the same calls in the same order.

    Args:
        tensors: group of the layers' tensors.
        control: group of rank 0's messages; gloo.
        deadline: what rank 0 waits at most until the others take a message.
    """

    def __init__(
        self, rank: int, num_shards: int, *, tensors: Any, control: Any, deadline: timedelta = _NO_DEADLINE
    ) -> None:
        self.rank = rank
        self.num_shards = num_shards
        self._tensors = tensors
        self._control = control
        self._deadline = deadline

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """The sum of all ranks' ``tensor``, in place."""
        if tensor.numel():
            self._wait(lambda: self._tensors.allreduce([tensor]))
        return tensor

    def smallest(self, number: int) -> int:
        """The smallest of all ranks' numbers, on every rank."""
        everyone = torch.zeros(self.num_shards, dtype=torch.int64)
        everyone[self.rank] = number
        self._wait(lambda: self._control.allreduce([everyone]))
        return int(everyone.min())

    def meet(self) -> None:
        """Wait for all ranks, as long as loading a model may take."""
        options = AllreduceOptions()
        options.timeout = timedelta(seconds=JOIN_S)
        self._wait(lambda: self._control.allreduce([torch.zeros(1)], options))

    def concatenate(self, tensor: torch.Tensor, widths: Sequence[int]) -> torch.Tensor:
        """All ranks' tensors side by side along the last dimension, on rank 0; elsewhere ``tensor`` as it is.

        Args:
            widths: last dimension of each rank's tensor; all else is equal.
        """
        if not tensor.numel():
            return tensor.new_empty((*tensor.shape[:-1], sum(widths))) if self.rank == 0 else tensor
        widest = max(widths)
        padded = (
            tensor if tensor.shape[-1] == widest else torch.nn.functional.pad(tensor, (0, widest - tensor.shape[-1]))
        )
        padded = padded.contiguous()
        pieces = [torch.empty_like(padded) for _ in widths] if self.rank == 0 else []
        self._wait(lambda: self._tensors.gather([pieces] if pieces else [], [padded]))
        if self.rank != 0:
            return tensor
        return torch.cat([piece[..., :width] for piece, width in zip(pieces, widths, strict=True)], dim=-1)

    def send(self, message: bytes) -> None:
        """Rank 0 tells the others, whose processes must run: gloo sends to none that has not asked."""
        buffer = torch.zeros(max(MESSAGE_BYTES, _LENGTH_BYTES + len(message)), dtype=torch.uint8)
        content = len(message).to_bytes(_LENGTH_BYTES, "little") + message
        buffer[: len(content)] = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        self._broadcast(buffer[:MESSAGE_BYTES], self._deadline)
        if len(buffer) > MESSAGE_BYTES:
            self._broadcast(buffer[MESSAGE_BYTES:], self._deadline)

    def receive(self) -> bytes:
        """What rank 0 sends; waits as long as it takes."""
        buffer = torch.empty(MESSAGE_BYTES, dtype=torch.uint8)
        self._broadcast(buffer, _NO_DEADLINE)
        length = _LENGTH_BYTES + int.from_bytes(bytes(buffer[:_LENGTH_BYTES].numpy().data), "little")
        if length > MESSAGE_BYTES:
            rest = torch.empty(length - MESSAGE_BYTES, dtype=torch.uint8)
            self._broadcast(rest, _NO_DEADLINE)
            buffer = torch.cat([buffer, rest])
        return bytes(buffer[_LENGTH_BYTES:length].numpy().data)

    def _broadcast(self, buffer: torch.Tensor, deadline: timedelta) -> None:
        options = BroadcastOptions()
        options.timeout = deadline
        self._wait(lambda: self._control.broadcast([buffer], options))

    @staticmethod
    def _wait(call: Any) -> None:
        """
        Raises:
            EngineError: another rank is gone or late.
        """
        try:
            call().wait()
        except RuntimeError as error:
            raise EngineError(
                f"another shard of this model is gone or did not answer in time ({str(error).splitlines()[0]})",
                hint="the engine must be opened again",
            ) from error


def connect(
    store: Any, rank: int, num_shards: int, *, host: str, timeout_s: float, device: torch.device = CPU
) -> Collectives:
    """Join the group; returns when all ranks have.

    Args:
        store: a store of torch.distributed that all ranks reach, for example of `torch.distributed.rendezvous`.
        host: an address of this machine that the other ranks reach; 127.0.0.1 when all run here.
        timeout_s: what a layer waits for the other ranks at most, in seconds.
        device: where this rank's tensors are; of one kind on all ranks.

    Raises:
        EngineError: not all ranks came within `JOIN_S`.
    """

    def group(name: str, timeout: timedelta) -> Any:
        options = ProcessGroupGloo._Options()
        options._devices = [ProcessGroupGloo.create_device(hostname=host)]
        options._timeout = timeout
        return ProcessGroupGloo(PrefixStore(name, store), rank, num_shards, options)

    try:
        store.set_timeout(timedelta(seconds=JOIN_S))
        deadline = timedelta(seconds=timeout_s)
        control = group("control", _NO_DEADLINE)
        if device.type == "cuda":
            tensors = _nccl_group(PrefixStore("tensors", store), rank, num_shards, device, deadline)
        else:
            tensors = group("tensors", deadline)
    except RuntimeError as error:
        raise EngineError(
            f"the shards of this model could not connect ({str(error).splitlines()[0]})",
            value=f"shard {rank} of {num_shards} at {host}",
        ) from error
    return Collectives(rank, num_shards, tensors=tensors, control=control, deadline=deadline)


def _nccl_group(store: Any, rank: int, num_shards: int, device: torch.device, deadline: timedelta) -> Any:
    """A group for tensors on ``device``; its calls are queued on the device's stream, in the order of the layers.

    Raises:
        EngineError: this build of torch has no NCCL.
    """
    if not is_nccl_available():
        raise EngineError(
            "shards on GPUs need a build of torch with NCCL",
            value=str(device),
            allowed="cpu",
            key="serve.engine.device",
        )
    from torch.distributed import ProcessGroupNCCL

    torch.cuda.set_device(device)
    options = ProcessGroupNCCL.Options()
    options._timeout = deadline
    group = ProcessGroupNCCL(store, rank, num_shards, options)
    group.allreduce([torch.zeros(1, device=device)]).wait()  # connects now, not in the middle of the first step
    return group
