"""Scalars of a training run, read back as TensorBoard reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.board import TrainingBoard
from fastserve_ray.training.hooks import Hooks, go_on
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.loop import TrainingLoop
from tests.training.tiny import model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path


def read(folder: Path) -> dict[str, dict[int, float]]:
    """Values by step, by name."""
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    names = accumulator.Tags()["scalars"]
    return {name: {point.step: point.value for point in accumulator.Scalars(name)} for name in names}


def test_a_run_leaves_its_scalars(tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []
    board = TrainingBoard(Storage.open(str(tmp_path)), "train-1", lambda **call: heard.append(call))

    def on_evaluate(step: int, metrics: dict[str, float]) -> bool:
        board.evaluated(step, metrics)
        return go_on(step, metrics)

    train = train_spec(max_steps=6, logging_steps=2)
    job = TrainJob(model_spec("llama"), train, write_dataset(tmp_path / "data", "text-generation"))
    result = TrainingLoop(job, hooks=Hooks(progress=board, on_evaluate=on_evaluate)).run()
    board.close()
    found = read(tmp_path / "tensorboard" / "train-1")
    assert [call["step"] for call in heard] == [1, 2, 4, 6]
    assert list(found["train/loss"]) == [1, 2, 4, 6]
    assert abs(found["train/loss"][6] - result.metrics["train_loss"]) < 1e-5
    assert abs(found["eval/eval_loss"][6] - result.metrics["eval_loss"]) < 1e-5
    for name in ("tokens_per_second", "step_seconds", "mfu", "memory_bytes", "learning_rate"):
        assert found[f"train/{name}"][4] > 0


def test_a_resumed_run_takes_the_place_of_what_it_does_again(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path))
    for first, last, value in ((1, 6, 1.0), (4, 8, 2.0)):
        board = TrainingBoard(storage, "train-1", lambda **call: None)
        for step in range(first, last):
            board(step=step, total=8, loss=value)
        board(step=last, total=8, message="no number")
        board.close()
    points = read(tmp_path / "tensorboard" / "train-1")["train/loss"]
    assert points == {1: 1.0, 2: 1.0, 3: 1.0, 4: 2.0, 5: 2.0, 6: 2.0, 7: 2.0}
