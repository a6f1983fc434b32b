"""The data stage: what it says about rows that it leaves out, or fails on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import DataError
from fastserve_ray.events.log import EventWriter
from fastserve_ray.events.progress import silent
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.run.context import StageContext
from fastserve_ray.run.stages.data import work
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path


def context_of(tmp_path: Path, **data: Any) -> StageContext:
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "row {n} of the text"}}\n' for n in range(30)) + "{\n")
    spec = spec_from_dict(
        {
            "name": "tiny",
            "model": {"config": {"model_type": "llama"}, "tokenizer": {"vocab_size": 300}},
            "data": {"train": {"path": str(tmp_path / "a.jsonl")}, "max_length": 16, **data},
            "train": {},
        }
    )
    storage = Storage.open(str(tmp_path / "storage"))
    events = EventWriter(storage.uri, "run-1", "worker")
    stage = plan_run(spec).stage("data")
    return StageContext(spec, stage, {}, storage, Registry(storage), "run-1", events, silent)


def test_rows_that_end_the_stage_are_listed_in_the_runs_folder(tmp_path: Path) -> None:
    context = context_of(tmp_path)
    with pytest.raises(DataError, match="1 row cannot be used") as caught:
        work(context)
    assert "runs/run-1/bad_rows.jsonl" in str(caught.value.hint)
    assert '"line": 31' in (tmp_path / "storage" / "runs" / "run-1" / "bad_rows.jsonl").read_text()


def test_rows_that_are_left_out_are_a_warning_and_figures(tmp_path: Path) -> None:
    context = context_of(tmp_path, on_bad_rows="skip")
    with context.events:
        manifest = work(context)
    assert manifest.metrics["bad_rows"] == 1
    log = "".join(path.read_text() for path in (tmp_path / "storage" / "runs" / "run-1" / "events").iterdir())
    assert '"warning"' in log
    assert "a.jsonl line 31 is not JSON" in log


def test_the_key_is_in_the_digest(tmp_path: Path) -> None:
    assert context_of(tmp_path).stage.digest != context_of(tmp_path, on_bad_rows="skip").stage.digest
