"""A chain of stages gives the numbers of the whole model. The stages of these tests run one after another in one
process; those that talk to each other are in test_parity.py."""

from __future__ import annotations

import copy
from collections import deque
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, cast

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fastserve_ray.errors import ModelError
from fastserve_ray.spec.checks.parallel import CUT_FAMILIES
from fastserve_ray.tasks.packed import keeps_documents_apart
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.pipeline.cutting import Pieces, count_parameters, cut, held_parameters
from fastserve_ray.training.pipeline.families import CUT_PLANS
from fastserve_ray.training.pipeline.stage import Stage
from fastserve_ray.training.pipeline.timing import measure_costs
from fastserve_ray.training.strategies.protocol import MicroBatch, Sums
from fastserve_ray.training.tensor.cutting import cut_model
from fastserve_ray.training.world import World

if TYPE_CHECKING:
    from fastserve_ray.training.pipeline.channel import Channel

SIZES: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
MODELS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "num_key_value_heads": None},
    "llama": {"model_type": "llama"},
    "llama-tied": {"model_type": "llama", "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2"},
    "qwen3": {"model_type": "qwen3"},
    "qwen3-window": {
        "model_type": "qwen3",
        "use_sliding_window": True,
        "sliding_window": 4,
        "layer_types": ["full_attention", "sliding_attention"] * 2 + ["full_attention"],
    },
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 4},
    "gemma": {"model_type": "gemma"},
    "bert": {"model_type": "bert", "num_key_value_heads": None},
}
CLASSIFIERS = ("bert", "llama", "gpt2")


class Pipe:
    """A channel to the next stage of this process."""

    def __init__(self) -> None:
        self.tensors: deque[torch.Tensor] = deque()

    def send(self, tensor: torch.Tensor) -> None:
        self.tensors.append(tensor.detach().clone())

    def receive(self, shape: tuple[int, ...]) -> torch.Tensor:
        tensor = self.tensors.popleft()
        assert tensor.shape == shape
        return tensor

    def flush(self) -> None:
        pass


def make(name: str, *, classifies: bool = False) -> torch.nn.Module:
    config = AutoConfig.for_model(**{**SIZES, **MODELS[name]})
    torch.manual_seed(0)
    auto = AutoModelForSequenceClassification if classifies else AutoModelForCausalLM
    model: torch.nn.Module = auto.from_config(config)
    return model.eval()


def stages_of(model: torch.nn.Module, number: int, *, tensor: int = 1) -> list[torch.nn.Module]:
    """The first of ``tensor`` ranks of each stage."""
    world = World(tensor_size=tensor, tensor_group=cast("Any", "not spoken to") if tensor > 1 else None)
    found = []
    for stage in range(number):
        part = copy.deepcopy(model)
        if not hasattr(part, "num_labels"):
            keeps_documents_apart(part)  # found out while the weights are whole
        layers = Pieces.of(part).shares(number)[stage]
        cut_model(part, world)
        cut(Pieces.of(part), layers, is_first=stage == 0, is_last=stage == number - 1)
        found.append(part)
    return found


def through_stages(parts: list[torch.nn.Module], task: Any, batches: list[Any]) -> Sums:
    """Sums of the last stage."""
    sums, pipe = Sums(), Pipe()
    for number, part in enumerate(parts):
        channel: Channel = pipe  # type: ignore[assignment]
        stage = Stage(part, task, (channel, channel), number=number, num_stages=len(parts), autocast=nullcontext)
        stage.evaluate([MicroBatch(batch, 1.0) for batch in batches], sums)
    assert not pipe.tensors
    return sums


def padded_rows() -> list[dict[str, Any]]:
    random = torch.Generator().manual_seed(1)
    return [
        {"input_ids": torch.randint(1, 64, (length,), generator=random).tolist(), "label": length % 2}
        for length in (12, 7, 3)
    ]


def packed_rows() -> list[dict[str, Any]]:
    return [
        {**row, "lengths": [len(row["input_ids"]) - 2, 2] if len(row["input_ids"]) > 4 else None}
        for row in padded_rows()
    ]


@pytest.mark.parametrize("name", [name for name in MODELS if name != "bert"])
@pytest.mark.parametrize("rows", [padded_rows(), packed_rows()], ids=["padded", "packed"])
def test_stages_give_the_loss_of_the_whole_model(name: str, rows: list[dict[str, Any]]) -> None:
    check(make(name), load_task("text-generation"), rows)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_stages_give_the_loss_of_the_whole_classifier(name: str) -> None:
    check(make(name, classifies=True), load_task("text-classification"), padded_rows())


def check(model: torch.nn.Module, task: Any, rows: list[dict[str, Any]]) -> None:
    batches = [task.collate(rows, 0), task.collate(rows[1:], 0)]
    parts = stages_of(model, 3)
    with torch.no_grad():
        whole = [task.loss(model, batch) for batch in batches]
    found = through_stages(parts, task, batches)
    assert found.total == pytest.approx(sum(float(loss.total) for loss in whole), abs=1e-6)
    assert found.count == sum(int(loss.count) for loss in whole)
    assert found.correct == sum(int(loss.correct) for loss in whole)


@pytest.mark.parametrize("name", MODELS)
def test_a_stage_holds_its_own_weights_alone(name: str) -> None:
    model = make(name, classifies=name == "bert")
    pieces = Pieces.of(model)
    tied = sum(parameter.numel() for parameter in pieces.tied())
    total = sum(parameter.numel() for parameter in model.parameters())
    parts = stages_of(model, 3)
    held = [sum(parameter.numel() for parameter in held_parameters(part)) for part in parts]
    assert sum(held) == total + tied
    layer = count_parameters(pieces.layers[:1])
    assert max(held) <= max(total / 3 + layer, *held[::2]) < total
    assert {key for part in parts for key, value in part.state_dict().items() if not value.is_meta} == set(
        model.state_dict()
    )


@pytest.mark.parametrize(("name", "expected"), [("gpt2", 1), ("llama", 0), ("llama-tied", 1), ("gemma", 1)])
def test_tied_weights_are_found(name: str, expected: int) -> None:
    assert len(Pieces.of(make(name)).tied()) == expected


def test_there_is_a_plan_for_every_family_that_the_spec_lets_through() -> None:
    assert set(CUT_PLANS) == set(CUT_FAMILIES)


def test_a_model_without_a_plan_is_refused_by_name() -> None:
    config = AutoConfig.for_model("opt", hidden_size=32, ffn_dim=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ModelError) as caught:
        Pieces.of(AutoModelForCausalLM.from_config(config))
    assert "opt" in str(caught.value)
    assert ", ".join(CUT_PLANS) in str(caught.value)


def test_more_stages_than_layers_are_refused() -> None:
    with pytest.raises(ModelError, match="more stages than layers"):
        Pieces.of(make("gpt2")).shares(6)


class Clock:
    """One second passes whenever it is looked at."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        self.seconds += 1
        return self.seconds


@pytest.mark.parametrize("name", ["gpt2", "llama", "bert"])
@pytest.mark.parametrize("recomputes", [False, True])
def test_a_slow_layer_gets_a_stage_of_its_own_when_time_is_balanced(
    name: str, *, recomputes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr("fastserve_ray.training.pipeline.timing.perf_counter", clock)
    task = load_task("text-generation")
    model: Any = make(name).train()
    if recomputes:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    pieces = Pieces.of(model)

    def dawdle(*_: object) -> None:
        clock.seconds += 10

    pieces.layers[3].register_forward_hook(dawdle)
    batch = task.collate(padded_rows(), 0)
    costs = measure_costs(pieces, lambda: task.loss(model, batch).total, "cpu")
    others = 3 if recomputes else 2  # forward, again, backward
    assert costs.layers == [others, others, others, others + (20 if recomputes else 10), others]
    assert (costs.first, costs.last) == (2, 2)
    assert range(3, 4) in pieces.shares(3, costs)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(layer.gradient_checkpointing == recomputes for layer in pieces.layers)
