"""Decode steps captured in CUDA graphs: the host launches one graph a step, where it launched hundreds of kernels.

Not run on a GPU yet. What can be wrong with it shows at start-up: each graph is replayed once and compared with the
same step run eagerly, and where that fails decoding stays eager.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.paged.forward import DecodeBatch, PagedForward, Replay

MEMORY_FRACTION = 0.1
"""Of the memory that is free when capturing begins, what all graphs may keep."""
TOLERANCE = 0.02
"""Largest difference of a logit to the eager step's, relative to the largest logit; for the rounding of bf16."""
NUM_WARM_RUNS = 2
"""Eager runs before capturing: the first compiles, and libraries set themselves up, which must not be captured."""

logger = logging.getLogger(__name__)


@torch.inference_mode()
def capture_decoding(forward: PagedForward, device: torch.device) -> list[int]:
    """Capture a decode step of every batch size, largest first, so that smaller ones use the same memory again.

    Stops where the graphs would keep more than `MEMORY_FRACTION` of the free memory; other sizes stay eager, as all do
    for models whose forward pass waits for the device midway (rotary scalings that look at the longest position).

    Returns:
        the captured sizes.
    """
    captured: list[int] = []
    pool = torch.cuda.graph_pool_handle()
    free_before = torch.cuda.mem_get_info(device)[0]
    for size in reversed(forward.batch_sizes):
        try:
            replay = _capture(forward.batch(size), pool, device)
        except RuntimeError as error:
            logger.warning("decoding %d rows is not captured in a CUDA graph: %s", size, str(error).splitlines()[0])
            break
        used = free_before - torch.cuda.mem_get_info(device)[0]
        if used > MEMORY_FRACTION * free_before:
            logger.warning("CUDA graphs stop at %d rows: they would keep %.2f GB", size, used / 1e9)
            break
        forward.use_replay(size, replay)
        captured.append(size)
    return captured


def _capture(batch: DecodeBatch, pool: object, device: torch.device) -> Replay:
    """
    Raises:
        RuntimeError: the step cannot be captured, or gives other logits when it is replayed.
    """
    current = torch.cuda.current_stream(device)
    side = torch.cuda.Stream(device)
    side.wait_stream(current)
    with torch.cuda.stream(side):
        for _ in range(NUM_WARM_RUNS):
            expected = batch.compute().clone()
    current.wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        logits = batch.compute()

    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    _compare(replay(), expected)
    return replay


def _compare(logits: torch.Tensor, expected: torch.Tensor) -> None:
    scale = float(expected.abs().max())
    error = float((logits - expected).abs().max())
    if not error <= TOLERANCE * scale:
        raise RuntimeError(f"the graph's logits differ by {error:.3g} at a scale of {scale:.3g}")
