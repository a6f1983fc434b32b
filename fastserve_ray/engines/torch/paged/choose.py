"""Which attention an engine takes: the paged kernel, or the gather path."""

from __future__ import annotations

import logging
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.torch.paged.kernels import MIN_HEAD_DIM, FlexKernel
from fastserve_ray.engines.torch.probe import check_logits, refusing
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastserve_ray.engines.torch.kv_cache import LayerShape
    from fastserve_ray.engines.torch.paged.kernels import PagedKernel
    from fastserve_ray.spec.serve import EngineSpec

KEY = "serve.engine.attention"

logger = logging.getLogger(__name__)


def choose_kernel(
    model: Any, layers: list[LayerShape], spec: EngineSpec, expected: list[torch.Tensor]
) -> PagedKernel | None:
    """The paged kernel for an adopted model, or None for the gather path.

    ``auto`` takes the kernel on a GPU, if it can be had and gives the model's own logits on a few tokens; else it says
    why not in the log.

    Args:
        expected: of `probe.reference_logits`.

    Raises:
        EngineError: ``flex`` was asked for, and does not fit.
    """
    if spec.attention == "gather" or (spec.attention == "auto" and model.device.type != "cuda"):
        return None
    try:
        _check_fit(model.device, layers)
        kernel = FlexKernel()
        with refusing(model):
            check_logits(model, layers, expected, kernel)
    except EngineError as error:
        if spec.attention == "flex":
            raise
        logger.warning("attention gathers, since flex attention does not fit: %s", error)
        return None
    return kernel


def _check_fit(device: torch.device, layers: Sequence[LayerShape]) -> None:
    """
    Raises:
        EngineError: the kernel cannot run there, or not for these layers.
    """
    smallest = min(min(layer.key_dim, layer.value_dim) for layer in layers)
    if device.type != "cuda":
        raise EngineError(
            "flex attention needs a GPU", value=str(device), allowed="auto, gather", key=KEY, hint="use auto"
        )
    if smallest < MIN_HEAD_DIM:
        raise EngineError(
            "flex attention does not do heads that small", value=smallest, allowed=f"{MIN_HEAD_DIM} or more", key=KEY
        )
    if find_spec("triton") is None:
        raise EngineError("flex attention needs triton, which comes with CUDA builds of torch", key=KEY)
