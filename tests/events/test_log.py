"""Writing and reading a run's log, on local storage and on S3."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from fastserve_ray.events.log import EventReader, EventWriter, events_folder

if TYPE_CHECKING:
    from fastserve_ray.events.event import Event


@pytest.fixture(params=["local", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "root") if request.param == "local" else str(request.getfixturevalue("s3_uri"))


def test_events_come_back_in_order_and_once(uri: str) -> None:
    reader = EventReader(uri, "run-1")
    assert reader.poll() == []
    with EventWriter(uri, "run-1", "driver", flush_seconds=0.05) as driver, EventWriter(uri, "run-1", "rank0") as rank:
        driver.emit("stage_started", "train")
        driver.flush()
        rank.emit("stage_progress", "train", step=1, total=2, loss=0.5)
        rank.flush()
        first = reader.poll()
        driver.emit("stage_finished", "train", artifact="train-1", seconds=1.0, metrics={"eval_loss": 1.0})
        driver.flush()
        second = reader.poll()
    assert [event.kind for event in first] == ["stage_started", "stage_progress"]
    assert [event.source for event in first] == ["driver", "rank0"]
    assert first[1].fields == {"step": 1, "total": 2, "loss": 0.5}
    assert [event.kind for event in second] == ["stage_finished"]
    assert reader.poll() == []
    assert len(EventReader(uri, "run-1").poll()) == 3


def test_runs_are_apart(uri: str) -> None:
    with EventWriter(uri, "run-1", "driver") as writer:
        writer.emit("run_started")
    assert EventReader(uri, "run-2").poll() == []


def test_emit_does_not_wait_for_storage(tmp_path: Path) -> None:
    with EventWriter(str(tmp_path), "run", "rank0") as writer:
        start = time.perf_counter()
        for step in range(2000):
            writer.emit("stage_progress", "train", step=step, total=2000)
        seconds = time.perf_counter() - start
    assert seconds < 1.0, f"{seconds / 2000 * 1e6:.0f} us an event"
    assert len(EventReader(str(tmp_path), "run").poll()) == 2000


def test_the_thread_writes_without_flush(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "run", "driver")
    writer.emit("run_started")
    reader, deadline = EventReader(str(tmp_path), "run"), time.monotonic() + 10
    events: list[Event] = []
    while not events and time.monotonic() < deadline:
        events = reader.poll()
    assert [event.kind for event in events] == ["run_started"]
    writer.close()


def test_a_torn_last_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / events_folder("run") / "driver-0.jsonl"
    path.parent.mkdir(parents=True)
    line = json.dumps({"time": 1.0, "kind": "run_started", "stage": None, "source": "driver", "fields": {}})
    path.write_text(line + "\n" + line[:20])
    reader = EventReader(str(tmp_path), "run")
    assert len(reader.poll()) == 1
    assert reader.poll() == []
    path.write_text(line + "\n" + line + "\n")
    assert len(reader.poll()) == 1


def test_a_line_of_another_form_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / events_folder("run") / "driver-0.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text('not json\n{"time": 1.0}\n[]\n')
    assert EventReader(str(tmp_path), "run").poll() == []


def test_fields_that_json_does_not_know(tmp_path: Path) -> None:
    with EventWriter(str(tmp_path), "run", "driver") as writer:
        writer.emit("stage_progress", "train", loss=float("nan"), step=np.int64(3), path=Path("x"), names=("a", "b"))
    (event,) = EventReader(str(tmp_path), "run").poll()
    assert event.fields == {"loss": "nan", "step": 3, "path": "x", "names": ["a", "b"]}


def test_a_pickled_writer_writes_to_its_own_file(tmp_path: Path) -> None:
    writer = EventWriter(str(tmp_path), "run", "driver")
    copy: EventWriter = pickle.loads(pickle.dumps(writer))
    for each in (writer, copy):
        each.emit("warning", message="x")
        each.close()
    assert len(list((tmp_path / events_folder("run")).iterdir())) == 2


def test_storage_that_cannot_be_written_is_said_once_and_does_not_stop_the_work(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("not a folder")
    writer = EventWriter(str(tmp_path / "file"), "run", "driver", flush_seconds=0.01)
    with caplog.at_level(logging.WARNING):
        for _ in range(20):
            writer.emit("warning", message="x")
            time.sleep(0.01)
        writer.close()
    assert len([record for record in caplog.records if "are not written" in record.message]) == 1


def test_events_kept_during_an_outage_are_written_after_it(tmp_path: Path) -> None:
    blocker = tmp_path / "root"
    blocker.write_text("a file where the folder should be")
    writer = EventWriter(str(blocker), "run", "driver", flush_seconds=60)
    writer.emit("warning", message="during")
    writer.flush()
    blocker.unlink()
    writer.emit("warning", message="after")
    writer.close()
    assert [event.fields["message"] for event in EventReader(str(blocker), "run").poll()] == ["during", "after"]


def test_threads_share_a_writer(tmp_path: Path) -> None:
    with EventWriter(str(tmp_path), "run", "driver", flush_seconds=0.001) as writer:

        def emit_many() -> None:
            for _ in range(200):
                writer.emit("warning", message="m")

        threads = [threading.Thread(target=emit_many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(EventReader(str(tmp_path), "run").poll()) == 800


def test_a_process_that_ends_without_close_loses_nothing(tmp_path: Path) -> None:
    script = """
import sys
from fastserve_ray.events.log import EventWriter
EventWriter(sys.argv[1], "run", "worker").emit("stage_progress", "train", step=7, total=None)
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], check=True)
    (event,) = EventReader(str(tmp_path), "run").poll()
    assert event.fields == {"step": 7, "total": None}
