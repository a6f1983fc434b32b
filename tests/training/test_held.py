"""One worker holds what the plan says; ``test_parity.py`` tests the strategies of several ranks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.plan.memory import training_states
from fastserve_ray.plan.model_size import model_size
from fastserve_ray.spec import ModelSpec
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.loop import TrainingLoop
from fastserve_ray.training.strategies.single import SingleStrategy
from tests.training.tiny import WORDS, model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.training.strategies.held import HeldBytes


@pytest.mark.parametrize("family", ["gpt2", "llama", "bert"])
def test_one_worker_holds_what_the_plan_says(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[HeldBytes] = []
    update = SingleStrategy.update

    def watched(self: SingleStrategy, learning_rate: float) -> None:
        seen.append(self.held_bytes())
        update(self, learning_rate)

    monkeypatch.setattr(SingleStrategy, "update", watched)
    train = train_spec(max_steps=2)
    job = TrainJob(model_spec(family), train, write_dataset(tmp_path / "data", task_of(family)))
    TrainingLoop(job, hooks=Hooks()).run()
    size = model_size(ModelSpec(task=task_of(family), config={**(job.model.config or {}), "vocab_size": WORDS + 3}))
    said = training_states(size, train, task=job.model.task, workers=1, zero=0)
    first, second = seen
    assert (first.optimizer, second.master) == (0, 0)
    assert second.parameters == pytest.approx(said.parameters, rel=0.05)
    assert second.gradients == pytest.approx(said.gradients, rel=0.05)
    assert second.optimizer == pytest.approx(said.optimizer, rel=0.05)
