"""Whether a processor has bf16 units."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.errors import TrainingError
from fastserve_ray.tasks.protocol import LossSum
from fastserve_ray.training import precision
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.loop import MAX_BAD_LOSSES, TrainingLoop
from fastserve_ray.training.precision import LossScaler, cpu_has_bf16, precision_warning, refuse_precision
from fastserve_ray.training.strategies.protocol import MicroBatch
from fastserve_ray.training.strategies.single import SingleStrategy
from fastserve_ray.training.strategies.zero import deepspeed_config
from fastserve_ray.training.world import World
from tests.training.tiny import model_spec, train_spec, write_dataset

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


class Square:
    """The mean square of a layer's output, as an objective."""

    def loss(self, model: torch.nn.Module, batch: Any) -> LossSum:
        return LossSum(model(batch).float().square().sum(), torch.tensor(1), torch.tensor(0))


def scaled_strategy() -> tuple[SingleStrategy, torch.nn.Linear]:
    """fp16 on the CPU, which the loop refuses for its slowness: torch computes it all the same."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(4, 4, bias=False)
    strategy = SingleStrategy()
    train = train_spec(precision="fp16", resources_per_worker={"GPU": 1})
    strategy.setup(layer, train, World(), Square(), torch.ones(1, 4))
    return strategy, layer


def test_a_step_whose_gradient_is_no_number_changes_nothing_and_is_counted() -> None:
    strategy, layer = scaled_strategy()
    before, start = layer.weight.detach().clone(), strategy.scaling()["loss_scale"]
    strategy.train_step([MicroBatch(torch.ones(1, 4), math.inf)], 0.1)
    assert torch.equal(layer.weight, before)
    assert strategy.scaling() == {"loss_scale": start / 2, "skipped_steps": 1.0}
    while strategy.scaling()["loss_scale"] > 256:  # then the scaled gradients fit into 16 bits
        strategy.train_step([MicroBatch(torch.ones(1, 4), math.inf)], 0.1)
    skipped = strategy.scaling()["skipped_steps"]
    strategy.train_step([MicroBatch(torch.ones(1, 4), 1.0)], 0.1)
    assert not torch.equal(layer.weight, before)
    assert strategy.scaling()["skipped_steps"] == skipped


def test_a_scaled_step_is_the_step_of_fp32() -> None:
    strategy, layer = scaled_strategy()
    scaler = LossScaler("fp16", "cpu")
    scaler.load({"scaler": {**strategy_state(strategy), "scale": 128.0}, "skipped_steps": 3})
    assert scaler.scaling() == {"loss_scale": 128.0, "skipped_steps": 3.0}
    strategy._scaler = scaler
    plain = torch.nn.Linear(4, 4, bias=False)
    plain.load_state_dict(layer.state_dict())
    other = SingleStrategy()
    other.setup(plain, train_spec(), World(), Square(), torch.ones(1, 4))
    for chosen in (strategy, other):
        chosen.train_step([MicroBatch(torch.ones(1, 4), 1.0)], 0.1)
    assert torch.allclose(layer.weight, plain.weight, atol=1e-3)
    assert other.scaling() == {}
    assert other.state() == {}


def strategy_state(strategy: SingleStrategy) -> dict[str, Any]:
    state = strategy.state()["scaler"]
    assert isinstance(state, dict)
    return state


def test_fp16_on_a_cpu_is_refused_with_what_to_take(tmp_path: Path) -> None:
    refuse_precision("fp16", "cuda:0")
    refuse_precision("bf16", "cpu")
    train = train_spec(precision="fp16")
    job = TrainJob(model_spec("llama"), train, write_dataset(tmp_path / "data", "text-generation"))
    with pytest.raises(TrainingError, match="fp16 needs a GPU") as caught:
        TrainingLoop(job).run()
    assert caught.value.key == "train.precision"
    assert "bf16" in (caught.value.allowed or "")


def test_losses_that_are_no_numbers_end_training_after_some_skipped_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastserve_ray.training.loop.refuse_precision", lambda *given: None)
    train = train_spec(precision="fp16", max_steps=50)
    job = TrainJob(model_spec("llama"), train, write_dataset(tmp_path / "data", "text-generation"))
    loop = TrainingLoop(job)
    torch.nn.init.constant_(next(loop.model.parameters()), math.nan)
    with pytest.raises(TrainingError, match=f"in step {MAX_BAD_LOSSES + 1} of 50"):
        loop.run()


def test_deepspeed_scales_the_loss_itself() -> None:
    config = deepspeed_config(train_spec(workers=2, zero=2, precision="fp16"), [1000])
    assert config["fp16"]["enabled"] is True
    assert config["bf16"]["enabled"] is False
    assert deepspeed_config(train_spec(workers=2, zero=2), [1000])["fp16"]["enabled"] is False
