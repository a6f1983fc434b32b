"""The driver over fake stages: order, skipping, tuned parameters, failure, locks."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import FastServeError, PlacementError, StorageError, UsageError
from fastserve_ray.events.log import EventReader
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.run.driver import run
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.storage.lock import FileLock
from tests.run import fakes
from tests.run.fakes import NoRay, make_spec

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastserve_ray.events.event import Event
    from fastserve_ray.run.walk import RunResult
    from fastserve_ray.spec.run import RunSpec


def drive(spec: RunSpec, *, wait: bool = False, until: str | None = None) -> RunResult:
    return run(spec, spec_text="name: fake\n", wait=wait, until=until, stages=fakes.TABLE, runtime=NoRay())


def events_of(spec: RunSpec, run_id: str) -> list[Event]:
    return EventReader(spec.storage, run_id).poll()


def only_run_id(spec: RunSpec) -> str:
    (run_id,) = Storage.open(spec.storage).list_folders("runs")
    return run_id


def test_all_stages_run_in_order_and_the_model_is_served(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    spec = make_spec(tmp_path / "root")
    result = drive(spec)
    assert executed() == [*fakes.NAMES, "shut-down"]
    assert list(result.artifacts) == list(fakes.NAMES)
    assert result.served is not None
    assert result.served["model"] == result.artifacts["compress"]
    assert result.skipped == []


def test_the_artifacts_are_those_of_the_plan(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "root")
    planned = {stage.name: stage.artifact_id for stage in plan_run(spec).stages if stage.name != "serve"}
    assert drive(spec).artifacts == planned
    manifest = Registry(Storage.open(spec.storage)).resolve("fake@compress")
    assert manifest.parents == {"train": planned["train"], "data": planned["data"]}
    assert manifest.spec["model.task"] == "text-generation"


def test_the_best_parameters_reach_the_stages_after_tune(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "root")
    result = drive(spec)
    folder = Registry(Storage.open(spec.storage)).fetch(result.artifacts["compress"])
    assert (folder / "content").read_text() == f"small weights trained at {fakes.BEST_LEARNING_RATE}"


def test_a_second_run_only_serves(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    spec = make_spec(tmp_path / "root")
    first = drive(spec)
    second = drive(spec)
    assert executed() == [*fakes.NAMES, "shut-down", "shut-down"]
    assert second.skipped == list(fakes.NAMES)
    assert second.artifacts == first.artifacts
    kinds = [event.kind for event in events_of(spec, second.run_id)]
    assert kinds.count("stage_skipped") == 5
    assert kinds[-1] == "run_finished"


def test_a_changed_key_runs_only_what_depends_on_it(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    drive(make_spec(tmp_path / "root"))
    result = drive(make_spec(tmp_path / "root", verify={"golden_inputs": 3}))
    assert result.skipped == ["data", "tune", "train", "compress"]
    assert executed()[6:] == ["verify", "shut-down"]


def test_until_stops_after_a_stage(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    result = drive(make_spec(tmp_path / "root"), until="train")
    assert executed() == ["data", "tune", "train"]
    assert result.served is None


def test_until_an_unknown_stage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such stage"):
        drive(make_spec(tmp_path / "root"), until="tranings")
    assert not (tmp_path / "root" / "runs").exists()


def test_wait_serves_until_it_ends(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    drive(make_spec(tmp_path / "root"), wait=True)
    assert executed()[-2:] == ["waited", "shut-down"]


def test_the_runs_folder_tells_what_was_run(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "root")
    result = drive(spec)
    folder = tmp_path / "root" / "runs" / result.run_id
    assert (folder / "spec.yaml").read_text() == "name: fake\n"
    plan = json.loads((folder / "plan.json").read_text())
    assert [stage["name"] for stage in plan] == [*fakes.NAMES, "serve"]
    record = json.loads((folder / "run.json").read_text())
    assert record["stages"] == result.artifacts


def test_events_tell_the_run(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "root")
    events = events_of(spec, drive(spec).run_id)
    assert events[0].kind == "run_started"
    assert [event.stage for event in events if event.kind == "stage_finished"] == [*fakes.NAMES, "serve"]
    assert any(event.kind == "stage_progress" and event.fields["step"] == 3 for event in events)
    (served,) = [event for event in events if event.kind == "served"]
    assert served.fields["answer"] == "b"


def test_a_failing_stage_ends_the_run_and_keeps_what_was_made(
    tmp_path: Path, executed: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = make_spec(tmp_path / "root")
    monkeypatch.setenv(fakes.FAILS, "compress")
    with pytest.raises(FastServeError, match="it does not work") as caught:
        drive(spec)
    events = events_of(spec, only_run_id(spec))
    assert [event.kind for event in events[-2:]] == ["stage_failed", "run_failed"]
    assert "change: compress.key" in str(events[-2].fields["error"])
    traceback = tmp_path / "root" / "runs" / only_run_id(spec) / "errors" / "compress.txt"
    assert "_perhaps_fail" in traceback.read_text()
    assert caught.value.__notes__ == [f"traceback: {traceback}"]
    monkeypatch.delenv(fakes.FAILS)
    assert drive(spec).skipped == ["data", "tune", "train"]
    assert executed() == [*fakes.NAMES, "shut-down"]


def test_an_unexpected_error_is_reported_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path / "root")
    monkeypatch.setenv(fakes.FAILS, "data:unexpected")
    with pytest.raises(RuntimeError, match="a bug"):
        drive(spec)
    failed = [event for event in events_of(spec, only_run_id(spec)) if event.kind == "stage_failed"]
    assert [event.fields["error"] for event in failed] == ["RuntimeError: a bug"]


def test_sigterm_unwinds_and_stops_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = make_spec(tmp_path / "root")
    monkeypatch.setenv(fakes.FAILS, "train:terminated")
    runtime = NoRay()
    with pytest.raises(KeyboardInterrupt):
        run(spec, stages=fakes.TABLE, runtime=runtime)
    assert runtime.stops == [True]
    failed = [event for event in events_of(spec, only_run_id(spec)) if event.kind == "run_failed"]
    assert [event.fields["error"] for event in failed] == ["stopped"]


def test_a_model_that_cannot_be_served_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fakes.FAILS, "serve")
    with pytest.raises(FastServeError, match="it does not work"):
        drive(make_spec(tmp_path / "root"))


def test_what_does_not_fit_is_refused_before_anything_starts(tmp_path: Path, executed: Callable[[], list[str]]) -> None:
    many = {"parallel": {"workers": 4096}, "batch_size": 4096}
    spec = make_spec(tmp_path / "root", cluster={"num_gpus": 0}, train=many)
    with pytest.raises(PlacementError, match="more than the cluster has"):
        drive(spec)
    assert executed() == []
    assert not (tmp_path / "root" / "runs").exists()


def test_a_cluster_that_runs_already_is_asked_what_it_has(tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "root", cluster={"address": "auto"}, train={"parallel": {"workers": 2}})
    with pytest.raises(PlacementError):
        drive(spec)


def test_storage_that_cannot_be_written_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("a file")
    with pytest.raises(StorageError, match="cannot write"):
        drive(make_spec(tmp_path / "root"))


def test_ray_is_stopped_once_and_its_logs_go_after_success(tmp_path: Path) -> None:
    runtime = NoRay()
    run(make_spec(tmp_path / "root"), wait=False, stages=fakes.TABLE, runtime=runtime)
    assert runtime.stops == [False]


def test_a_second_run_waits_for_the_first_and_finds_its_artifact(
    tmp_path: Path, executed: Callable[[], list[str]]
) -> None:
    spec = make_spec(tmp_path / "root")
    stage = plan_run(spec).stage("data")
    storage = Storage.open(spec.storage)
    lock = FileLock(tmp_path / "root" / "locks" / f"{stage.artifact_id}.lock")
    lock.acquire()
    results: list[RunResult] = []
    second = threading.Thread(target=lambda: results.append(drive(spec, until="data")))
    second.start()
    while not any(
        event.kind == "warning" for run_id in storage.list_folders("runs") for event in events_of(spec, run_id)
    ):
        assert second.is_alive()
    (tmp_path / "made").mkdir()
    Registry(storage).publish(
        tmp_path / "made",
        kind="dataset",
        stage="data",
        digest=stage.digest,
        parents={},
        spec={},
        metrics={},
        info={},
    )
    lock.release()
    second.join(timeout=30)
    assert results[0].skipped == ["data"]
    assert executed() == []


def test_a_run_on_an_object_store(
    s3_uri: str, executed: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    spec = make_spec(s3_uri)
    first = drive(spec)
    assert events_of(spec, first.run_id)[-1].kind == "run_finished"
    assert drive(spec).skipped == list(fakes.NAMES)
    assert executed() == [*fakes.NAMES, "shut-down", "shut-down"]
    assert Registry(Storage.open(s3_uri)).resolve("fake@train").id == first.artifacts["train"]
