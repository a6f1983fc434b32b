"""Which weights decay, and how fast each layer learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForPreTraining

from fastserve_ray.errors import ModelError
from fastserve_ray.training.strategies.optimizer import SCALE, decays, make_adamw, parameter_groups, set_learning_rate
from tests.training.tiny import CONFIGS, task_of, train_spec


def model_of(family: str) -> torch.nn.Module:
    settings = {key: value for key, value in CONFIGS[family].items() if key != "model_type"}
    auto: Any = AutoModelForPreTraining if task_of(family) == "text-classification" else AutoModelForCausalLM
    model: torch.nn.Module = auto.from_config(AutoConfig.for_model(family, vocab_size=40, **settings))
    return model


EXCLUDED = {
    "gpt2": (".ln_1.", ".ln_2.", ".ln_f.", ".bias"),
    "llama": ("layernorm.weight", "model.norm.weight"),
    "bert": (".LayerNorm.", ".bias"),
}


@pytest.mark.parametrize("family", EXCLUDED)
def test_norms_and_biases_do_not_decay_and_all_else_does(family: str) -> None:
    found = {name: is_decayed for name, _, is_decayed in decays(model_of(family))}
    assert found == {name: not any(part in name for part in EXCLUDED[family]) for name in found}
    assert {True, False} == set(found.values())
    assert any("emb" in name or "wte" in name for name, is_decayed in found.items() if is_decayed)


def test_the_type_decides_and_not_the_shape() -> None:
    class WideNorm(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2, 3))

    model = torch.nn.Module()
    model.norm, model.linear = WideNorm(), torch.nn.Linear(2, 2)
    model.offset = torch.nn.Module()
    model.offset.bias = torch.nn.Parameter(torch.ones(2, 2))
    model.marked = torch.nn.Parameter(torch.ones(2, 2))
    model.marked._no_weight_decay = True
    assert {name for name, _, is_decayed in decays(model) if is_decayed} == {"linear.weight"}


def test_frozen_parameters_are_in_no_group() -> None:
    model = model_of("llama")
    model.get_parameter("lm_head.weight").requires_grad_(False)
    grouped = {id(weight) for group in parameter_groups(model, 0.1) for weight in group["params"]}
    assert grouped == {id(weight) for name, weight in model.named_parameters() if name != "lm_head.weight"}


@pytest.mark.parametrize("family", CONFIGS)
def test_lower_layers_learn_slower(family: str) -> None:
    model = model_of(family)
    optimizer = make_adamw(model, train_spec(layer_lr_decay=0.5))
    set_learning_rate(optimizer, 8.0)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    found = {name: rates[id(weight)] for name, weight in model.named_parameters()}
    for name, rate in found.items():
        layer = next((int(part) for part in name.split(".") if part.isdigit()), None)
        is_below = any(part in name for part in ("embed", "wte", "wpe"))
        assert rate == (8.0 * 0.5 ** (2 - layer) if layer is not None else 1.0 if is_below else 8.0), name


def test_without_decay_by_layer_there_are_two_groups() -> None:
    groups = parameter_groups(model_of("gpt2"), 0.1)
    assert [(group["weight_decay"], group[SCALE]) for group in groups] == [(0.1, 1.0), (0.0, 1.0)]


def test_a_model_without_layers_cannot_have_rates_by_layer() -> None:
    with pytest.raises(ModelError) as caught:
        parameter_groups(torch.nn.Linear(2, 2), 0.1, 0.5)
    assert caught.value.key == "train.layer_lr_decay"
