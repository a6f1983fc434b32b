"""load_model, compress_model, parallelize_model, create_engine and the optimizer on small real models."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import pytest
import torch

from fastserve_ray import (
    DeploymentOptimizer,
    Pruning,
    Quantization,
    compress_model,
    create_engine,
    load_model,
    parallelize_model,
)
from fastserve_ray.errors import CompressionError, ModelError, UsageError
from fastserve_ray.models.quantized import Int8DynamicLinear, Int8WeightOnlyLinear
from tests.engines.tiny import build_classifier, build_model, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.models.loading import LoadedModel

PROMPTS = ["the cat sat", "the dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("llama")
    build_model("llama").save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def classifier_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    build_classifier("bert", num_labels=3).save_pretrained(path)
    build_tokenizer().save_pretrained(path)
    return path


@pytest.fixture
def model(folder: Path) -> LoadedModel:
    return load_model(folder)


def share_of_zeros(model: LoadedModel) -> float:
    weights: list[torch.Tensor] = [
        module.weight for module in model.model.model.modules() if isinstance(module, torch.nn.Linear)
    ]
    return float(sum((weight == 0).sum() for weight in weights) / sum(weight.numel() for weight in weights))


def test_load_model_takes_the_task_from_the_config(folder: Path, classifier_folder: Path) -> None:
    assert load_model(folder).task == "text-generation"
    assert load_model(classifier_folder).task == "text-classification"


def test_load_model_says_what_a_name_may_be(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="hub id"):
        load_model(str(tmp_path / "nothing" / "here"))


def test_pruning_by_threshold_zeroes_exactly_the_small_weights(model: LoadedModel) -> None:
    before = copy.deepcopy(model.model.state_dict())
    pruned = Pruning(model).apply(threshold=0.01)
    for name, weight in pruned.model.state_dict().items():
        is_inner = name.endswith("_proj.weight")
        expected = before[name].masked_fill(before[name].abs() < 0.01, 0) if is_inner else before[name]
        assert torch.equal(weight, expected), name
    assert all(torch.equal(weight, before[name]) for name, weight in model.model.state_dict().items())


def test_pruning_without_a_goal_is_refused(model: LoadedModel) -> None:
    with pytest.raises(CompressionError, match="either sparsity or threshold"):
        Pruning(model).apply()


def test_quantization_replaces_the_layers_of_a_copy(model: LoadedModel) -> None:
    quantized = Quantization(model).apply(post_training=True)
    assert any(isinstance(module, Int8DynamicLinear) for module in quantized.model.modules())
    assert not any(isinstance(module, Int8DynamicLinear) for module in model.model.modules())
    with pytest.raises(UsageError, match="post_training"):
        Quantization(model).apply(post_training=False)


def test_a_bare_module_can_be_compressed_too(model: LoadedModel) -> None:
    module = compress_model(model.model, method="quantization", bitwidth=8)
    tokens = torch.arange(10)[None]
    error = (module(tokens).logits - model.model(tokens).logits).norm() / model.model(tokens).logits.norm()
    assert 0 < error < 0.1


def test_compress_model_prunes_half_by_default(model: LoadedModel) -> None:
    assert share_of_zeros(compress_model(model, method="pruning")) == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(("method", "bitwidth", "key"), [("quantization", 4, "bitwidth"), ("magic", 8, "method")])
def test_compress_model_says_what_it_can_do(model: LoadedModel, method: str, bitwidth: int, key: str) -> None:
    with pytest.raises(UsageError) as caught:
        compress_model(model, method=method, bitwidth=bitwidth)
    assert caught.value.key == key


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU uses instead")
def test_parallelize_model_says_what_it_used_instead(model: LoadedModel, capsys: pytest.CaptureFixture[str]) -> None:
    assert parallelize_model(model, method="data_parallel", num_gpus=4) is model
    assert "4 GPUs asked for, 0 present; using the CPU" in capsys.readouterr().err
    with pytest.raises(UsageError, match="data_parallel"):
        parallelize_model(model, method="pipeline")


def test_an_engine_completes_as_generate_does(model: LoadedModel) -> None:
    answers = create_engine(model, engine="torch").predict(PROMPTS, max_tokens=12)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        inputs = model.tokenizer(prompt, return_tensors="pt")["input_ids"]
        output = model.model.generate(inputs, do_sample=False, max_new_tokens=12)[0, inputs.shape[1] :]
        assert answer == model.tokenizer.decode(output, skip_special_tokens=True)


def test_an_engine_classifies(classifier_folder: Path) -> None:
    model = load_model(classifier_folder)
    predictions = create_engine(model).predict(PROMPTS)
    inputs = model.tokenizer(PROMPTS[0], return_tensors="pt")
    expected = model.model(inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits.softmax(-1)[0]
    assert predictions[0].scores == pytest.approx(expected.tolist(), abs=1e-5)


def test_an_engine_of_another_kind_is_refused(model: LoadedModel) -> None:
    with pytest.raises(UsageError, match="torch"):
        create_engine(model, engine="tensorrt")
    with pytest.raises(UsageError, match="list of texts"):
        create_engine(model).predict("one text")


def test_the_optimizer_takes_the_fastest_that_agrees(model: LoadedModel) -> None:
    optimizer = DeploymentOptimizer(model)
    optimized = optimizer.optimize(min_agreement=0.0)
    names = {candidate.name: candidate for candidate in optimizer.candidates}
    assert set(names) == {"float", "int8-dynamic", "int8-weight-only"}
    assert names["float"].agreement == 1.0
    assert optimizer.chosen == min(names.values(), key=lambda candidate: candidate.latency_ms).name
    kinds = {"float": torch.nn.Linear, "int8-dynamic": Int8DynamicLinear, "int8-weight-only": Int8WeightOnlyLinear}
    assert any(type(module) is kinds[optimizer.chosen] for module in optimized.model.modules())


def test_the_optimizer_keeps_the_model_when_nothing_agrees(model: LoadedModel) -> None:
    optimizer = DeploymentOptimizer(model)
    assert optimizer.optimize(min_agreement=1.0) is not None
    float_only = [candidate for candidate in optimizer.candidates if candidate.agreement >= 1.0]
    assert optimizer.chosen in {candidate.name for candidate in float_only}
