"""Keys and values between the device and the host, beside the forward pass.

A swap that is issued in one step runs while the model does; `join` at the start of the next step waits for it. So a
swap takes one step for everybody, and all ranks of a sharded model stay in step without talking about it. The time
that `join` waits is what swapping costs.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from fastserve_ray.engines.torch.kv_cache import KvCache, KvOps, move_blocks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.kv_cache import LayerShape


class Swapper:
    """Moves blocks between the device's cache and a host pool of ``num_host_slots`` tokens (0: none).

    On a GPU a stream of its own copies from and to pinned memory; on a CPU a thread does.
    """

    def __init__(self, device_cache: KvCache, layers: Sequence[LayerShape], num_host_slots: int) -> None:
        self._device_cache = device_cache
        self._device = device_cache.keys[0].device
        self._pending: Future[None] | torch.cuda.Event | None = None
        self._stream: torch.cuda.Stream | None = None
        self._thread: ThreadPoolExecutor | None = None
        self.seconds_waited = 0.0
        """How long steps have waited for swaps, in all."""
        if num_host_slots:
            is_cuda = self._device.type == "cuda"
            self._host_cache = KvCache(layers, num_host_slots, torch.device("cpu"), is_pinned=is_cuda)
            if is_cuda:
                self._stream = torch.cuda.Stream(self._device)
            else:
                self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="fastserve-swap")

    def begin(self, ops: KvOps) -> None:
        """Start the swaps of ``ops``; the previous ones must have been joined."""
        assert self._pending is None, "swaps are joined before others begin"
        if not ops.swap_out and not ops.swap_in:
            return
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self._device))
            with torch.cuda.stream(self._stream):
                self._move(ops)
                self._pending = self._stream.record_event()
        else:
            assert self._thread is not None, "there is a host pool to swap to"
            self._pending = self._thread.submit(self._move, ops)

    def join(self) -> None:
        """Wait until the swaps that were begun are done."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        start = perf_counter()
        if isinstance(pending, Future):
            pending.result()
        else:
            pending.synchronize()
        self.seconds_waited += perf_counter() - start

    def close(self) -> None:
        self.join()
        if self._thread is not None:
            self._thread.shutdown()

    @torch.inference_mode()
    def _move(self, ops: KvOps) -> None:
        move_blocks(self._device_cache, self._host_cache, ops.swap_out)
        move_blocks(self._host_cache, self._device_cache, ops.swap_in)
