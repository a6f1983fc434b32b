"""Magnitude pruning: exact counts, the smallest weights, nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fastserve_ray.compress.prune import prune_model
from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.errors import CompressionError
from fastserve_ray.models.layers import linear_layers
from fastserve_ray.models.loading import build_from_config
from fastserve_ray.spec import PruneStep, QuantizeStep
from tests.training.tiny import CONFIGS, make_tokenizer, task_of


def build(family: str = "llama") -> Any:
    return build_from_config(CONFIGS[family], task_of(family), make_tokenizer(), seed=5)


def inner_weights(model: Any) -> dict[str, torch.Tensor]:
    return {name: layer.get_parameter("weight").detach().clone() for name, layer in linear_layers(model)}


def step(**changes: Any) -> PruneStep:
    return PruneStep(kind="prune", **changes)


@pytest.mark.parametrize("family", sorted(CONFIGS))
@pytest.mark.parametrize("sparsity", [0.01, 0.5, 0.977])
def test_each_matrix_loses_exactly_its_part(family: str, sparsity: float) -> None:
    model = build(family)
    before = inner_weights(model)
    result = prune_model(model, step(sparsity=sparsity))
    assert result.sparsity_by_layer.keys() == before.keys()
    for name, after in inner_weights(model).items():
        count = round(sparsity * after.numel())
        assert int((after == 0).sum()) == count
        assert result.sparsity_by_layer[name] == pytest.approx(count / after.numel(), abs=1e-12)
        kept = after != 0
        assert torch.equal(after[kept], before[name][kept])
        assert before[name][~kept].abs().max() <= before[name][kept].abs().min()


def test_the_same_part_of_all_matrices_together() -> None:
    model = build()
    first = next(iter(linear_layers(model)))[1].get_parameter("weight")
    first.data *= 1e-3  # a matrix of small weights pays for the others
    total = sum(weight.numel() for weight in inner_weights(model).values())
    result = prune_model(model, step(sparsity=0.3, scope="global"))
    after = inner_weights(model).values()
    assert sum(int((weight == 0).sum()) for weight in after) == round(0.3 * total)
    assert next(iter(result.sparsity_by_layer.values())) == 1.0
    assert min(result.sparsity_by_layer.values()) < 0.3


def test_everything_below_the_threshold() -> None:
    model = build()
    before = inner_weights(model)
    prune_model(model, step(threshold=0.01))
    for name, after in inner_weights(model).items():
        assert torch.equal(after, torch.where(before[name].abs() < 0.01, 0.0, before[name]))
        assert 0 < float((after == 0).float().mean()) < 1


@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_embeddings_norms_biases_and_heads_stay(family: str) -> None:
    model = build(family)
    inner = {f"{name}.weight" for name, _ in linear_layers(model)}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    prune_model(model, step(sparsity=0.9))
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]) == (name not in inner), name


def test_excluded_layers_stay() -> None:
    model = build()
    before = inner_weights(model)
    result = prune_model(model, step(sparsity=0.5, exclude=["*.mlp.*", "model.layers.0.*"]))
    assert sorted(result.sparsity_by_layer) == [f"model.layers.1.self_attn.{name}_proj" for name in "koqv"]
    changed = {name for name, weight in inner_weights(model).items() if not torch.equal(weight, before[name])}
    assert changed == set(result.sparsity_by_layer)


@pytest.mark.parametrize("goal", [{}, {"sparsity": 0.5, "threshold": 0.1}])
def test_one_goal_is_needed(goal: dict[str, float]) -> None:
    with pytest.raises(CompressionError, match="either sparsity or threshold"):
        prune_model(
            build(), PruneStep.model_construct(kind="prune", sparsity=None, threshold=None).model_copy(update=goal)
        )


def test_a_pattern_without_a_layer_is_refused() -> None:
    with pytest.raises(CompressionError, match=r"fits no linear layer[\s\S]*model.layers.0"):
        prune_model(build(), step(sparsity=0.5, exclude=["encoder.*"]))


def test_a_quantized_model_is_refused() -> None:
    model = build()
    quantize_model(model, QuantizeStep(kind="quantize"))
    with pytest.raises(CompressionError, match="prune before quantize"):
        prune_model(model, step(sparsity=0.5))
