"""Linear layers with int8 weights and one scale for each output channel.

Both take a float input of shape (..., in_features) and return (..., out_features) in the input's type. On the CPU a
row's result is the same bits whatever other rows are in the step (weight-only: where ``in_features`` is a multiple of
16), unlike that of a float product, whose kernel depends on the number of rows (docs/adr/0003-int8-kernels.md).
"""

from __future__ import annotations

import torch
from torch import nn

from fastserve_ray.models.int8_kernels import INT8_MAX, int8_product, mixed_product, quantize_rows

__all__ = ["INT8_LAYERS", "INT8_MAX", "Int8DynamicLinear", "Int8Linear", "Int8WeightOnlyLinear", "quantize_rows"]

ROWS_AT_ONCE = 256
"""Rows in one go on the CPU: what they need stays in the L2 cache; all rows at once are up to five times slower."""


class Int8Linear(nn.Module):
    """What both layers hold: ``weight`` (N, K) int8, ``scale`` (N,) float32, ``bias`` (N,) or None."""

    weight: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, *, has_bias: bool) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.register_buffer("weight", torch.zeros(out_features, in_features, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(out_features))
        self.register_buffer("bias", torch.zeros(out_features) if has_bias else None)

    @classmethod
    def from_float(cls, weight: torch.Tensor, bias: torch.Tensor | None) -> Int8Linear:
        """Quantize a float weight of shape (out_features, in_features)."""
        layer = cls(weight.shape[1], weight.shape[0], has_bias=bias is not None)
        values, scales = quantize_rows(weight.detach())
        layer.weight, layer.scale = values.contiguous(), scales.flatten()
        layer.bias = None if bias is None else bias.detach().clone()
        return layer

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows = inputs.reshape(-1, self.in_features)
        if len(rows) <= ROWS_AT_ONCE or rows.device.type != "cpu":
            outputs = self._outputs(rows).to(inputs.dtype)
        else:
            outputs = rows.new_empty(len(rows), self.out_features)
            for part, place in zip(rows.split(ROWS_AT_ONCE), outputs.split(ROWS_AT_ONCE), strict=True):
                place.copy_(self._outputs(part))
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _outputs(self, rows: torch.Tensor) -> torch.Tensor:
        outputs = self._product(rows).mul_(self.scale)
        # an operation of its own: fused with the one before, it would round rows by their place in memory
        return outputs if self.bias is None else outputs.add_(self.bias)

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        """``rows`` (M, K) times the int8 weight, float32 (M, N), a new tensor."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8DynamicLinear(Int8Linear):
    """Quantizes each input row at run time and multiplies in int8 (per-token dynamic quantization)."""

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        values, scales = quantize_rows(rows)
        return int8_product(values, self.weight).mul_(scales)


class Int8WeightOnlyLinear(Int8Linear):
    """Widens the weights on the fly; activations stay floating point, rounded to bfloat16, the kernel's type."""

    def _product(self, rows: torch.Tensor) -> torch.Tensor:
        return mixed_product(rows, self.weight)


INT8_LAYERS: dict[str, type[Int8Linear]] = {
    "int8-dynamic": Int8DynamicLinear,
    "int8-weight-only": Int8WeightOnlyLinear,
}
"""By the name of the scheme in the YAML."""
