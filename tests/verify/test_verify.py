"""Verification of whole folders: what passes, what fails, and what the message says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import VerificationError
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import EngineSpec, VerifySpec
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task
from fastserve_ray.verify import verify as verify_module
from fastserve_ray.verify.verify import golden_rows, require_passed, verify_model
from tests.verify.damage import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.verify.report import VerificationResult
    from tests.compress.trained import Trained


def measured(trained: Trained, folder: Path) -> dict[str, float]:
    rows = PreparedDataset.open(trained.dataset).validation
    model = load_pretrained(folder, trained.task).model
    return evaluate(model, load_task(trained.task), rows, batch_size=32, pad_token_id=0)


def verify(
    trained: Trained,
    folder: Path,
    out: Path,
    *,
    parent: Path | None,
    parent_metrics: dict[str, float] | None = None,
    **spec: Any,
) -> VerificationResult:
    out.mkdir(exist_ok=True)
    settings = {"max_drop": {"eval_accuracy": 0.05}, "golden_inputs": 8, "golden_tokens": 5, **spec}
    return verify_model(
        folder,
        parent,
        VerifySpec.model_validate(settings),
        task=trained.task,
        dataset=trained.dataset,
        parent_metrics=parent_metrics,
        engine_spec=EngineSpec(),
        out=out,
    )


def test_a_quantized_model_passes(trained: Trained, quantized: Path, tmp_path: Path) -> None:
    result = verify(trained, quantized, tmp_path, parent=trained.model, min_agreement=0.8)
    require_passed(result, str(tmp_path))
    assert result.metrics == measured(trained, quantized)
    (finding,) = result.findings
    assert finding.parent == measured(trained, trained.model)["eval_accuracy"]
    assert result.figures()["golden_agreement"] == result.golden.agreement
    report = json.loads((tmp_path / "verification.json").read_text())
    assert report["passed"] is True
    assert report["failures"] == []
    assert report["gate"][0]["metric"] == "eval_accuracy"
    assert (tmp_path / "verification.md").read_text().startswith("# Verification: passed")


def test_the_trained_model_itself_passes_any_gate(trained: Trained, tmp_path: Path) -> None:
    limits = {"eval_loss": 0.0, "eval_accuracy": 0.0}
    result = verify(trained, trained.model, tmp_path, parent=None, max_drop=limits, min_agreement=1.0)
    assert result.is_passed
    assert [finding.drop for finding in result.findings] == [0.0, 0.0]
    assert result.golden.agreement == 1.0


@pytest.mark.parametrize("is_int8", [False, True])
def test_a_damaged_model_fails_and_says_what_to_change(
    trained: Trained, quantized: Path, is_int8: bool, tmp_path: Path
) -> None:
    folder = damaged(quantized if is_int8 else trained.model, tmp_path / "damaged")
    result = verify(trained, folder, tmp_path / "out", parent=trained.model, min_agreement=0.9)
    assert not result.is_passed
    drop = measured(trained, trained.model)["eval_accuracy"] - measured(trained, folder)["eval_accuracy"]
    with pytest.raises(VerificationError) as caught:
        require_passed(result, "s3://bucket/runs/r/verification")
    message = str(caught.value)
    assert drop > 0.2
    assert f"{drop:.4f} worse, at most 0.05 worse allowed" in message
    assert caught.value.key == "verify.max_drop.eval_accuracy, verify.min_agreement"
    for advice in ("a lower sparsity", "int8-weight-only", "exclude", "s3://bucket/runs/r/verification"):
        assert advice in message
    report = json.loads((tmp_path / "out" / "verification.json").read_text())
    assert report["passed"] is False
    assert len(report["failures"]) == 2
    assert "FAILED" in (tmp_path / "out" / "verification.md").read_text()


def test_metrics_of_the_parent_are_taken_as_published(trained: Trained, tmp_path: Path) -> None:
    result = verify(trained, trained.model, tmp_path, parent=trained.model, parent_metrics={"eval_accuracy": 2.0})
    assert result.findings[0].parent == 2.0
    assert not result.is_passed


def test_missing_metrics_of_the_parent_are_measured(trained: Trained, tmp_path: Path) -> None:
    result = verify(trained, trained.model, tmp_path, parent=trained.model, parent_metrics={"eval_loss": 0.0})
    assert result.findings[0].parent == measured(trained, trained.model)["eval_accuracy"]


def test_an_unknown_metric_is_refused(trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify_module, "_evaluate", lambda *_: {"eval_f1": 1.0, "eval_loss": 1.0})
    with pytest.raises(VerificationError) as caught:
        verify(trained, trained.model, tmp_path, parent=None, max_drop={"eval_f1": 0.1})
    assert caught.value.key == "verify.max_drop.eval_f1"


def test_an_engine_that_computes_something_else_fails(trained: Trained, tmp_path: Path) -> None:
    result = verify(trained, trained.model, tmp_path, parent=None)
    broken = type(result)(
        result.findings,
        type(result.golden)(8, 40, 3, 0, largest_gap=2.5, tolerance=1e-3, agreement=1.0),
        0.0,
        result.metrics,
    )
    with pytest.raises(VerificationError, match="the engine's answers are not the model's") as caught:
        require_passed(broken, "report")
    assert caught.value.key == "serve.engine"
    assert "Compress less" not in str(caught.value)


def test_golden_rows_are_spread_and_always_the_same(trained: Trained) -> None:
    prepared = PreparedDataset.open(trained.dataset)
    first, again = golden_rows(prepared, 5), golden_rows(prepared, 5)
    assert [row["text"] for row in first] == [row["text"] for row in again]
    assert [row["text"] for row in first] == [prepared.validation[i]["text"] for i in (0, 15, 30, 45, 60)]
    assert len(golden_rows(prepared, 10_000)) == len(prepared.validation)
