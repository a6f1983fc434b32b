"""Int8 products: exact, the same with and without int8 instructions, and safe at any width."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from fastserve_ray.models import int8_kernels
from fastserve_ray.models.int8_kernels import INT8_MAX, int8_product, mixed_product, quantize_rows

SHAPES = [(0, 64, 32), (1, 64, 172), (7, 65, 33), (5, 1, 1), (16, 384, 96), (3, 2500, 40)]


def int8_matrix(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-INT8_MAX, INT8_MAX + 1, (rows, width), generator=generator).to(torch.int8)


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU without VNNI and AVX2."""
    monkeypatch.setattr(int8_kernels, "_cpu_kernel_is_exact", lambda: False)
    monkeypatch.setattr(int8_kernels, "_has_packed_kernel", lambda: False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_plain", [False, True])
def test_int8_products_are_exact(shape: tuple[int, int, int], is_plain: bool, request: pytest.FixtureRequest) -> None:
    if is_plain:
        request.getfixturevalue("plain")
    rows, width, outputs = shape
    left, right = int8_matrix(rows, width), int8_matrix(outputs, width, seed=1)
    left[:1] = INT8_MAX
    right[:1] = INT8_MAX  # the largest sum of all
    exact = left.double() @ right.double().t()
    assert torch.equal(int8_product(left, right), exact.float())


def test_an_int8_product_is_exact_on_processors_without_vnni() -> None:
    """oneDNN told to use no VNNI saturates; the package must notice."""
    code = (
        "import torch; from tests.models.test_int8_kernels import int8_matrix;"
        "from fastserve_ray.models.int8_kernels import int8_product, _cpu_kernel_is_exact;"
        "a, b = int8_matrix(9, 640), int8_matrix(50, 640, seed=1);"
        "assert torch.equal(int8_product(a, b), (a.double() @ b.double().t()).float());"
        "print(_cpu_kernel_is_exact())"
    )
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() in {"True", "False"}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("is_plain", [False, True])
def test_mixed_products_round_to_bfloat16_and_nowhere_else(
    shape: tuple[int, int, int], is_plain: bool, request: pytest.FixtureRequest
) -> None:
    if is_plain:
        request.getfixturevalue("plain")
    rows, width, outputs = shape
    left = torch.randn(rows, width, generator=torch.Generator().manual_seed(2))
    right = int8_matrix(outputs, width)
    exact = left.bfloat16().double() @ right.double().t()
    got = mixed_product(left, right)
    assert got.dtype == torch.float32
    # half a step of bfloat16, and float32's noise where terms cancel
    noise = 1e-5 * (left.abs().double() @ right.abs().double().t())
    assert bool(((got - exact).abs() <= 2**-8 * exact.abs() + noise).all())


def test_rows_are_quantized_with_a_scale_of_their_own() -> None:
    matrix = torch.tensor([[1.0, -2.0, 0.5], [100.0, 0.0, -50.0], [0.0, 0.0, 0.0]])
    values, scales = quantize_rows(matrix)
    assert scales.shape == (3, 1)
    assert values.tolist() == [[64, -127, 32], [127, 0, -64], [0, 0, 0]]
    assert bool(((values * scales - matrix).abs() <= scales / 2 + 1e-9).all())


def test_the_largest_value_of_a_row_never_overflows() -> None:
    matrix = torch.rand(2000, 3, generator=torch.Generator().manual_seed(0)) * torch.logspace(-8, 8, 2000)[:, None]
    values, _ = quantize_rows(torch.cat([matrix, -matrix]))
    assert torch.equal(values.abs().amax(dim=1), torch.full((4000,), INT8_MAX, dtype=torch.int8))
