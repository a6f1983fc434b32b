"""Whether a processor has bf16 units."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.training import precision
from fastserve_ray.training.precision import cpu_has_bf16, precision_warning

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu sse avx512f avx512_bf16 amx_tile", True),
        ("flags\t\t: fpu sse avx2 avx512f", False),
        ("Features\t: fp asimd bf16 i8mm", True),
        ("Features\t: fp asimd", False),
        ("model name\t: a machine that does not say", None),
    ],
)
def test_what_cpuinfo_says(tmp_path: Path, line: str, expected: bool | None) -> None:
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}\n")
    assert cpu_has_bf16(tmp_path / "cpuinfo") is expected
    assert cpu_has_bf16(tmp_path / "nothing") is None


def test_the_warning_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: False)
    assert precision_warning("fp32", "cpu") is None
    warning = precision_warning("bf16", "cpu")
    assert warning is not None
    assert "train.precision: fp32" in warning
    monkeypatch.setattr(precision, "cpu_has_bf16", lambda: True)
    assert precision_warning("bf16", "cpu") is None
