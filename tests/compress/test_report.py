"""The report of compression."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.compress.report import CompressionReport, ModelFigures

if TYPE_CHECKING:
    from pathlib import Path


def figures(name: str, *, size: int, nonzero: int, latency: float, accuracy: float) -> ModelFigures:
    return ModelFigures(
        name=name,
        tensor_bytes=size,
        num_weights=1000,
        num_nonzero=nonzero,
        zeros_by_layer={"a": 0.5},
        latency_ms=latency,
        metrics={"eval_accuracy": accuracy},
    )


@pytest.fixture
def report() -> CompressionReport:
    return CompressionReport(
        models=(
            figures("parent", size=4_000_000, nonzero=1000, latency=8.0, accuracy=0.9),
            figures("0: prune magnitude sparsity 0.25", size=4_000_000, nonzero=750, latency=8.0, accuracy=0.89),
            figures("1: quantize int8-dynamic", size=1_000_000, nonzero=740, latency=4.0, accuracy=0.88),
        ),
        latency_batch=(8, 64),
        num_threads=1,
        disk_bytes_before=4_000_000,
        disk_bytes_after=1_040_000,
    )


def test_figures_compare_the_last_with_the_parent(report: CompressionReport) -> None:
    assert report.figures() == {
        "eval_accuracy": 0.88,
        "size_ratio": 0.26,
        "latency_ratio": 0.5,
        "sparsity": pytest.approx(0.26),
    }


def test_the_page_has_a_row_a_model_and_claims_no_saving_for_zeros(report: CompressionReport) -> None:
    page = report.page()
    assert "| parent | 4.00 | 100.0% | 8.00 | 0.9000 |" in page
    assert "| 1: quantize int8-dynamic | 1.00 | 74.0% | 4.00 | 0.8800 |" in page
    assert "4.00 MB before, 1.04 MB after" in page
    assert "zeros alone make the model neither smaller nor faster" in page
    only_int8 = report.model_copy(update={"models": (report.models[0], report.models[2])})
    assert "zeros alone" not in only_int8.page()


def test_both_files_are_written(report: CompressionReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    assert (
        CompressionReport.model_validate(
            json.loads((tmp_path / "compression_report.json").read_text())
            | {"models": report.models, "latency_batch": (8, 64)}
        )
        == report
    )
    assert (tmp_path / "compression_report.md").read_text() == report.page()
