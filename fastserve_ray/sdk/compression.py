"""``Pruning``, ``Quantization`` and ``compress_model``."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

from fastserve_ray.errors import UsageError
from fastserve_ray.sdk.handles import module_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.spec import CompressStep

Model = TypeVar("Model")


class Pruning:
    """Set small weights to zero.

    Args:
        model: what ``load_model`` returned, or a torch module.
    """

    def __init__(self, model: Any) -> None:
        module_of(model)
        self._model = model

    def apply(
        self, threshold: float | None = None, *, sparsity: float | None = None, exclude: Sequence[str] = ()
    ) -> Any:
        """A pruned copy; the model that was given stays as it is.

        Args:
            threshold: weights with a smaller magnitude become zero. Either this or ``sparsity``.
            sparsity: part of each matrix that becomes zero.
            exclude: fnmatch patterns of layers to leave alone.

        Raises:
            CompressionError: neither or both goals, or nothing to prune.
        """
        from fastserve_ray.spec import PruneStep

        return _apply(
            self._model, PruneStep(kind="prune", threshold=threshold, sparsity=sparsity, exclude=tuple(exclude))
        )


class Quantization:
    """Store the weights of linear layers in int8.

    Args:
        model: what ``load_model`` returned, or a torch module.
    """

    def __init__(self, model: Any) -> None:
        module_of(model)
        self._model = model

    def apply(self, post_training: bool = True, *, scheme: str = "int8-dynamic", exclude: Sequence[str] = ()) -> Any:
        """A quantized copy; the model that was given stays as it is.

        Args:
            post_training: must be True: quantization happens after training, without further training.
            scheme: "int8-dynamic" or "int8-weight-only".
            exclude: fnmatch patterns of layers to leave in floating point.

        Raises:
            UsageError: quantization-aware training was asked for, or an unknown scheme.
            CompressionError: nothing to quantize.
        """
        from fastserve_ray.models.quantized import INT8_LAYERS
        from fastserve_ray.spec import QuantizeStep

        if not post_training:
            raise UsageError(
                "quantization-aware training is not there", value=post_training, allowed="True", key="post_training"
            )
        if scheme not in INT8_LAYERS:
            raise UsageError("unknown scheme", value=scheme, allowed=", ".join(INT8_LAYERS), key="scheme")
        step = QuantizeStep.model_validate({"kind": "quantize", "scheme": scheme, "exclude": tuple(exclude)})
        return _apply(self._model, step)


def compress_model(
    model: Any,
    method: str = "quantization",
    *,
    bitwidth: int = 8,
    threshold: float | None = None,
    sparsity: float | None = None,
) -> Any:
    """Compress a model in one call.

    Args:
        model: what ``load_model`` returned, or a torch module.
        method: "quantization" (int8 weights, activations quantized at run time) or "pruning".
        bitwidth: of quantized weights; only 8.
        threshold, sparsity: of pruning; the default is a sparsity of 0.5.

    Raises:
        UsageError: an unknown method or bit width.
    """
    if method == "quantization":
        if bitwidth != 8:
            raise UsageError("no such bit width", value=bitwidth, allowed="8", key="bitwidth")
        return Quantization(model).apply(post_training=True)
    if method == "pruning":
        if threshold is None and sparsity is None:
            sparsity = 0.5
        return Pruning(model).apply(threshold, sparsity=sparsity)
    raise UsageError("unknown method", value=method, allowed="quantization, pruning", key="method")


def _apply(model: Model, step: CompressStep) -> Model:
    from fastserve_ray.compress.table import apply_step

    changed = copy.deepcopy(model)
    apply_step(module_of(changed), step)
    return changed
