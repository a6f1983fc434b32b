"""The order of training rows: decided by the seed, whatever the workers, the files and the interruptions."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastserve_ray.data import arrow_file
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.data.readers import jsonl
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.training.batches import BatchPlan

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

TEXTS = [f"row {number} says {'fox ' * (number % 7)}" for number in range(203)]
SHARES: dict[str, Any] = {"accumulation": 2}


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return folder


def prepare(corpus: Path, out: Path) -> Path:
    spec = {
        "name": "tiny",
        "model": {"config": {"model_type": "llama"}, "tokenizer": {"vocab_size": 300}},
        "data": {"train": {"path": str(corpus)}, "max_length": 16, "seed": 3},
        "train": {},
    }
    out.mkdir()
    prepare_dataset(spec_from_dict(spec), out)
    return out


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_any_number_of_workers_sees_the_same_batches(size: int, corpus: Path, tmp_path: Path) -> None:
    rows = PreparedDataset.open(prepare(corpus, tmp_path / "out")).train
    alone = BatchPlan(len(rows), 24, seed=5)
    workers = [BatchPlan(len(rows), 24, seed=5) for _ in range(size)]
    for step in range(2 * alone.steps_per_epoch):
        shares = [
            np.concatenate(worker.micro_batches(step, rank=rank, size=size, **SHARES))
            for rank, worker in enumerate(workers)
        ]
        together = [rows[int(index)]["input_ids"].tolist() for index in np.concatenate(shares)]
        assert together == [rows[int(index)]["input_ids"].tolist() for index in alone.global_batch(step)]


def test_an_epoch_has_every_row_once(corpus: Path, tmp_path: Path) -> None:
    rows = PreparedDataset.open(prepare(corpus, tmp_path / "out")).train
    plan = BatchPlan(len(rows), 24, seed=5)
    epochs = [
        np.concatenate([plan.global_batch(epoch * plan.steps_per_epoch + at) for at in range(plan.steps_per_epoch)])
        for epoch in (0, 1)
    ]
    assert [sorted(epoch.tolist()) for epoch in epochs] == [list(range(len(rows)))] * 2
    assert not np.array_equal(*epochs)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (4, 2), (2, 3), (1, 4)])
def test_what_resumes_reads_exactly_the_rows_that_come_next(before: int, after: int) -> None:
    total, stop = 40, 17

    def read(size: int, steps: range) -> NDArray[np.int64]:
        plans = [BatchPlan(100, 12, seed=2) for _ in range(size)]
        shares = [
            part
            for step in steps
            for rank, plan in enumerate(plans)
            for part in plan.micro_batches(step, rank=rank, size=size, **SHARES)
        ]
        return np.concatenate(shares)

    resumed = np.concatenate([read(before, range(stop)), read(after, range(stop, total))])
    assert np.array_equal(resumed, read(1, range(total)))


def test_how_rows_lie_in_files_changes_nothing(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = digests(prepare(corpus, tmp_path / "whole"))
    monkeypatch.setattr(jsonl, "CHUNK_ROWS", 7)
    assert digests(prepare(corpus, tmp_path / "chunks")) == whole
    many = tmp_path / "many"
    many.mkdir()
    for number, start in enumerate(range(0, len(TEXTS), 30)):
        table = pa.table({"text": TEXTS[start : start + 30]})
        pq.write_table(table, many / f"{number}.parquet", row_group_size=11)
    assert digests(prepare(many, tmp_path / "files")) == whole


def test_rows_are_found_across_record_batches(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = PreparedDataset.open(prepare(corpus, tmp_path / "one"))
    monkeypatch.setattr(arrow_file, "BATCH_BYTES", 200)
    many = PreparedDataset.open(prepare(corpus, tmp_path / "many"))
    assert pa.ipc.open_file(tmp_path / "many" / "train.arrow").num_record_batches > 10
    for first, second in zip(one.train, many.train, strict=True):
        assert first["input_ids"].tolist() == second["input_ids"].tolist()
        assert first["lengths"] == second["lengths"]
    assert many.train[-1]["lengths"] == one.train[len(one.train) - 1]["lengths"]
