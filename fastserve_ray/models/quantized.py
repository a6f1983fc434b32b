"""Linear layers with int8 weights and one scale for each output channel.

Both take a float input of shape (..., in_features) and return (..., out_features) in the input's type. Every row is
computed on its own: its activation scale comes from that row alone and int32 sums are exact, so that with
``Int8DynamicLinear`` a row's result does not depend on the other rows of the step (docs/adr/0003-int8-kernels.md).
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

INT8_MAX = 127
_TINY = 1e-12
"""Smallest scale: a row or channel of zeros stays zero."""


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 by row: values (M, K) int8 and scales (M,) float32 with ``matrix`` close to values * scales."""
    scales = matrix.float().abs().amax(dim=1).clamp_min(_TINY) / INT8_MAX
    values = (matrix.float() / scales[:, None]).round_().clamp_(-INT8_MAX, INT8_MAX).to(torch.int8)
    return values, scales


def int8_matmul(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Exact product of int8 matrices (M, K) and (N, K), as float32 (M, N): sums are int32 on the CPU, and on CUDA,
    whose int8 kernel wants more than 16 rows and widths divisible by 8, float64 stands in where the shape does not fit.
    """
    fits_cuda = left.shape[0] > 16 and left.shape[1] % 8 == 0 and right.shape[0] % 8 == 0
    if left.device.type == "cpu" or (left.device.type == "cuda" and fits_cuda):
        return torch._int_mm(left, right.t()).float()
    return (left.double() @ right.double().t()).float()


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
        layer.weight, layer.scale = quantize_rows(weight.detach())
        layer.bias = None if bias is None else bias.detach().clone()
        return layer

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class Int8DynamicLinear(Int8Linear):
    """Quantizes each input row at run time and multiplies in int8 (per-token dynamic quantization)."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        rows, scales = quantize_rows(inputs.reshape(-1, self.in_features))
        product = int8_matmul(rows, self.weight).mul_(scales[:, None]).mul_(self.scale)
        if self.bias is not None:
            product += self.bias
        return product.to(inputs.dtype).view(*inputs.shape[:-1], self.out_features)


class Int8WeightOnlyLinear(Int8Linear):
    """Multiplies in the input's float type with weights that are widened on the fly; activations keep their bits."""

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        product = functional.linear(inputs, self.weight.to(inputs.dtype)) * self.scale.to(inputs.dtype)
        return product if self.bias is None else product + self.bias.to(inputs.dtype)


INT8_LAYERS: dict[str, type[Int8Linear]] = {
    "int8-dynamic": Int8DynamicLinear,
    "int8-weight-only": Int8WeightOnlyLinear,
}
"""By the name of the scheme in the YAML."""
