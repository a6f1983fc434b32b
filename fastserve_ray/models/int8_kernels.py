"""The two int8 matrix products and where they are safe to use; measured in docs/adr/0003-int8-kernels.md.

Each has a fast kernel and a plain path that needs no int8 instructions. With the fast kernels of the CPU, and with int8
on both sides always, the result of a row does not depend on the other rows of the step.
"""

from __future__ import annotations

from functools import cache

import torch
from torch.nn import functional

INT8_MAX = 127
EXACT_WIDTH = 1024
"""So many products of two int8 numbers add up without rounding in float32: 1024 * 127 * 127 < 2**24."""
PACKED_WIDTH = 16
"""The packed kernel reads rows 16 values at a time, and past their end when the width is no multiple of that."""
_TINY = 1e-12
"""Smallest scale: a row or channel of zeros stays zero."""


def quantize_rows(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Symmetric int8 by row: values (M, K) int8 and scales (M, 1) float32 with ``matrix`` close to values * scales.

    A row that holds an infinity or no number gets a scale that makes its products not a number.
    """
    matrix = matrix.float()
    scales = matrix.abs().amax(dim=1, keepdim=True).clamp_min_(_TINY).div_(INT8_MAX)
    return torch.div(matrix, scales).round_().to(torch.int8), scales


def int8_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Int8 matrices (M, K) and (N, K) to ``left @ right.T`` as float32 (M, N): exact int32 sums, rounded once."""
    if _has_exact_kernel(left, right):
        return torch._int_mm(left, right.t()).float()
    return _plain_int8_product(left, right)


def mixed_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Float (M, K) and int8 (N, K) to ``left @ right.T`` as float32 (M, N), ``left`` and the result in bfloat16's bits.

    Where the packed kernel cannot be used, the number of rows may decide the last bit, as in any float product.
    """
    left = left.bfloat16()
    if left.device.type == "cpu" and _has_packed_kernel() and left.shape[1] % PACKED_WIDTH == 0:
        ones = torch.ones(len(right), dtype=torch.bfloat16)
        return torch._weight_int8pack_mm(left, right, ones).float()
    return functional.linear(left.float(), right.float()).bfloat16().float()


def _plain_int8_product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """The same numbers from float32 products of columns so few that their sums are exact."""
    total = torch.zeros(len(left), len(right), dtype=torch.int32, device=left.device)
    for part, other in zip(left.split(EXACT_WIDTH, dim=1), right.split(EXACT_WIDTH, dim=1), strict=True):
        total += functional.linear(part.float(), other.float()).int()
    return total.float()


def _has_exact_kernel(left: torch.Tensor, right: torch.Tensor) -> bool:
    if left.device.type == "cpu":
        return _cpu_kernel_is_exact()
    # the kernel of CUDA takes more than 16 rows, and widths that are multiples of 8
    widths = (left.shape[1], right.shape[0])
    return bool(left.device.type == "cuda" and left.shape[0] > 16 and all(width % 8 == 0 for width in widths))


@cache
def _cpu_kernel_is_exact() -> bool:
    """On CPUs without VNNI oneDNN adds pairs of products in 16 bits, which saturate; the largest product tells."""
    width = 64
    largest = torch.full((32, width), INT8_MAX, dtype=torch.int8)
    products = [torch._int_mm(largest[:rows], largest.t()) for rows in (1, len(largest))]
    return all(bool(product.eq(width * INT8_MAX**2).all()) for product in products)


@cache
def _has_packed_kernel() -> bool:
    """Elsewhere torch runs a scalar loop."""
    return str(torch.backends.cpu.get_cpu_capability()) in {"AVX2", "AVX512"}
