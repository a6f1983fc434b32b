"""What a paged engine does before the first request, so that none waits for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.paged.graphs import capture_decoding
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    import torch

    from fastserve_ray.engines.torch.runner import Runner
    from fastserve_ray.spec.serve import EngineSpec

logger = logging.getLogger(__name__)


def prepare_paged(runner: Runner, device: torch.device, spec: EngineSpec) -> None:
    """Compile the kernels for all shapes and, on a GPU, capture decoding. Without effect on a runner that gathers.

    A kernel that cannot be compiled or run in some shape makes the runner gather, which is logged.

    Raises:
        EngineError: that happens, and ``flex`` was asked for.
    """
    if runner.paged is None:
        return
    try:
        runner.paged.warm_up()
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        if spec.attention == "flex":
            raise EngineError(
                f"flex attention failed on this GPU ({reason})", key="serve.engine.attention", hint="use auto or gather"
            ) from error
        logger.warning("attention gathers, since flex attention failed on this GPU: %s", reason)
        runner.paged = None
        return
    if spec.cuda_graphs and device.type == "cuda":
        capture_decoding(runner.paged, device)
