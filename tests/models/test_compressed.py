"""Folders of models with int8 layers: the same bits after a round trip, and no other reader misled."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModel, AutoModelForCausalLM

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.errors import ModelError
from fastserve_ray.models.compressed import is_compressed, load_compressed, save_compressed
from fastserve_ray.models.loading import build_from_config, load_pretrained, save_model
from fastserve_ray.models.quantized import INT8_LAYERS, Int8Linear
from fastserve_ray.spec import QuantizeStep
from tests.training.tiny import CONFIGS, make_tokenizer, task_of

if TYPE_CHECKING:
    from pathlib import Path

SCHEMES = sorted(INT8_LAYERS)
INPUTS = {"input_ids": torch.arange(3, 15).view(2, 6), "attention_mask": torch.ones(2, 6, dtype=torch.long)}


def build(family: str, **changes: Any) -> Any:
    task = task_of(family)
    labels = ("no", "yes") if task == "text-classification" else None
    return build_from_config(CONFIGS[family] | changes, task, make_tokenizer(), seed=5, label_names=labels).eval()


def save(model: Any, folder: Path, scheme: Any, **step: Any) -> Any:
    """Quantizes ``model`` and returns it."""
    quantize_model(model, QuantizeStep(kind="quantize", scheme=scheme, **step))
    folder.mkdir(exist_ok=True)
    save_compressed(model, make_tokenizer(), folder, scheme=scheme)
    return model


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        result: torch.Tensor = model(**INPUTS).logits
    return result


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("family", sorted(CONFIGS))
def test_a_round_trip_keeps_every_bit(family: str, scheme: str, tmp_path: Path) -> None:
    model = save(build(family), tmp_path, scheme)
    assert is_compressed(tmp_path)
    loaded: Any = load_pretrained(tmp_path, task_of(family))
    assert torch.equal(logits(loaded.model), logits(model))
    names = [name for name, module in loaded.model.named_modules() if isinstance(module, Int8Linear)]
    assert names == [name for name, module in model.named_modules() if isinstance(module, Int8Linear)]
    assert len(names) >= 8
    assert not loaded.model.training
    assert loaded.tokenizer.pad_token_id == 0


def test_generation_and_its_settings_survive(tmp_path: Path) -> None:
    model = build("llama")
    model.generation_config.max_new_tokens = 7
    save(model, tmp_path, "int8-dynamic")
    loaded: Any = load_pretrained(tmp_path, "text-generation")
    assert loaded.model.generation_config.max_new_tokens == 7
    output = [m.generate(**INPUTS, do_sample=False, pad_token_id=0) for m in (model, loaded.model)]
    assert torch.equal(*output)


def test_classes_survive(tmp_path: Path) -> None:
    save(build("bert"), tmp_path, "int8-dynamic")
    assert load_compressed(tmp_path, "text-classification").model.config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("is_tied", [True, False])
def test_tied_weights_are_stored_once_and_tied_again(is_tied: bool, tmp_path: Path) -> None:
    model = save(build("llama", tie_word_embeddings=is_tied), tmp_path, "int8-dynamic")
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert ("lm_head.weight" in names) != is_tied or "model.embed_tokens.weight" not in names
    loaded: Any = load_compressed(tmp_path, "text-generation").model
    assert (loaded.lm_head.weight is loaded.model.embed_tokens.weight) == is_tied
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_file_holds_int8_for_every_layer_named(family: str, tmp_path: Path) -> None:
    whole = build(family, **{"hidden_size" if family == "llama" else "n_embd": 64})
    save(copy.deepcopy(whole), tmp_path, "int8-weight-only")
    layers = json.loads((tmp_path / "compression.json").read_text())["layers"]
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        int8 = [name for name in file.offset_keys() if file.get_tensor(name).dtype == torch.int8]
    assert sorted(int8) == sorted(f"{name}.weight" for name in layers)
    sizes = {name: parameter.numel() for name, parameter in whole.named_parameters()}
    saved = sum(3 * sizes[name] for name in int8)  # each value in one byte, not four
    whole_bytes = 4 * sum(sizes.values())
    assert (tmp_path / "model.safetensors").stat().st_size < whole_bytes - 0.8 * saved


def test_transformers_refuses_the_folder(tmp_path: Path) -> None:
    save(build("llama"), tmp_path, "int8-dynamic")
    for auto_class in (AutoModel, AutoModelForCausalLM):
        with pytest.raises(ValueError, match="quant_method"):
            auto_class.from_pretrained(tmp_path)


def test_another_task_is_refused(tmp_path: Path) -> None:
    save(build("llama"), tmp_path, "int8-dynamic")
    with pytest.raises(ModelError):
        load_compressed(tmp_path, "text-classification")


@pytest.mark.parametrize("name", ["compression.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"{}", None])
def test_a_damaged_folder_is_a_clear_error(name: str, content: bytes | None, tmp_path: Path) -> None:
    save(build("llama"), tmp_path, "int8-dynamic")
    if content is None:
        (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:-100])
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match="cannot be read"):
        load_compressed(tmp_path, "text-generation")


def test_a_model_in_bfloat16_keeps_its_type(tmp_path: Path) -> None:
    save_model(build("llama"), make_tokenizer(), tmp_path / "whole")
    whole = load_pretrained(tmp_path / "whole", "text-generation", dtype="bfloat16").model
    model = save(whole, tmp_path, "int8-dynamic")
    loaded: Any = load_compressed(tmp_path, "text-generation").model
    assert loaded.dtype == torch.bfloat16
    assert torch.equal(logits(loaded), logits(model))


def test_the_type_of_the_rest_can_be_chosen(tmp_path: Path) -> None:
    model = save(build("gpt2"), tmp_path, "int8-dynamic")
    loaded: Any = load_pretrained(tmp_path, "text-generation", dtype="bfloat16").model
    assert loaded.dtype == torch.bfloat16
    layer = next(module for module in loaded.modules() if isinstance(module, Int8Linear))
    assert layer.scale.dtype == torch.float32
    error = (logits(loaded).float() - logits(model)).norm() / logits(model).norm()
    assert 0 < float(error) < 0.1
