"""Finished trials in storage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.tune.records import Report, TrialRecord, TrialStore, key_of

if TYPE_CHECKING:
    from pathlib import Path

FIRST = TrialRecord(
    trial="trial-000",
    parameters={"train.learning_rate": 0.1 + 0.2, "train.seed": 3},
    status="finished",
    steps=4,
    seconds=1.0,
    metrics={"eval_loss": 1.0},
    reports=(Report(step=4, metrics={"eval_loss": 1.0}),),
)
SECOND = FIRST.model_copy(update={"trial": "trial-001", "parameters": {"train.learning_rate": 0.5}})


def test_records_come_back_in_their_order_under_their_parameters(tmp_path: Path) -> None:
    store = TrialStore(Storage.open(str(tmp_path)), "checkpoints/x")
    assert store.load() == {}
    store.save(SECOND)
    store.save(FIRST)
    assert list(store.load().items()) == [(key_of(record.parameters), record) for record in (FIRST, SECOND)]


def test_the_order_of_parameters_does_not_matter() -> None:
    assert key_of({"a": 1, "b": 0.5}) == key_of({"b": 0.5, "a": 1})
    assert key_of({"a": 1}) != key_of({"a": 1.5})


def test_a_damaged_record_is_dropped(tmp_path: Path) -> None:
    store = TrialStore(Storage.open(str(tmp_path)), "checkpoints/x")
    store.save(FIRST)
    (tmp_path / "checkpoints/x/trials/torn.json").write_text('{"trial": "trial-0')
    (tmp_path / "checkpoints/x/trials/other.json").write_text("{}")
    assert list(store.load().values()) == [FIRST]
    assert len(list((tmp_path / "checkpoints/x/trials").iterdir())) == 1
