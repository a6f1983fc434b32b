"""The folder of a model with int8 layers.

A Hugging Face folder (config, tokenizer, ``model.safetensors`` with int8 weights and scales) with one file more:
``compression.json`` names the scheme and the layers. Its config.json carries a ``quantization_config`` without a
method: transformers 5.23 refuses that with an error, where for a method that it does not know it only warns, and reads
the int8 weights as floats.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import COMPRESSION_FILE, LoadedModel, load_tokenizer, read_config
from fastserve_ray.models.quiet import quiet_transformers
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    import torch

WEIGHTS_FILE = "model.safetensors"
REFUSED_BY_TRANSFORMERS = {"format": "fastserve-int8", "load_with": "fastserve_ray.load_model"}


class CompressionInfo(BaseModel):
    """``compression.json``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    scheme: Literal["int8-dynamic", "int8-weight-only"]
    dtype: str
    """Type of the weights that are not int8."""
    layers: tuple[str, ...]
    """Names of the int8 layers."""
    tied: dict[str, str]
    """Names of tensors that are not in the file, and the name of the one each shares."""


def is_compressed(folder: str | Path) -> bool:
    """Whether a folder holds int8 layers."""
    return (Path(folder) / COMPRESSION_FILE).exists()


def save_compressed(model: Any, tokenizer: Any, folder: Path, *, scheme: str) -> None:
    """Write a model whose layers ``quantize_model`` replaced."""
    from safetensors.torch import save_file

    from fastserve_ray.models.quantized import Int8Linear

    tensors, tied = _without_shared(model.state_dict())
    info = CompressionInfo.model_validate(
        {
            "scheme": scheme,
            "dtype": str(model.dtype).removeprefix("torch."),
            "layers": tuple(name for name, module in model.named_modules() if isinstance(module, Int8Linear)),
            "tied": tied,
        }
    )
    with quiet_transformers():
        model.config.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if getattr(model, "can_generate", lambda: False)():
            model.generation_config.save_pretrained(folder)
    config = read_config(folder)
    config["architectures"] = [type(model).__name__]
    config["quantization_config"] = REFUSED_BY_TRANSFORMERS
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / COMPRESSION_FILE).write_text(info.model_dump_json(indent=2) + "\n")


def load_compressed(folder: str | Path, task: str, *, dtype: str = "auto") -> LoadedModel:
    """Build the model without initialising it, put int8 layers in place, and fill everything from the file.

    Args:
        dtype: type of what is not int8; "auto" keeps the type it is stored in.

    Raises:
        ModelError: the folder is damaged, or made for another task.
    """
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    place = Path(folder)
    info = read_info(place)
    model = _empty_model(place, task, getattr(torch, info.dtype if dtype == "auto" else dtype))
    place_layers(model, info)
    try:
        tensors = load_file(place / WEIGHTS_FILE)
        tensors |= {name: tensors[shared] for name, shared in info.tied.items()}
        model.load_state_dict(tensors)
    except (OSError, KeyError, RuntimeError, ValueError, SafetensorError) as error:
        raise _damaged(place, error) from error
    return LoadedModel(model.eval(), load_tokenizer(place), task)


def _without_shared(state: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Each memory once, as safetensors wants it, and what shares it."""
    kept: dict[str, torch.Tensor] = {}
    tied: dict[str, str] = {}
    owners: dict[tuple[int, tuple[int, ...]], str] = {}
    for name, tensor in state.items():
        owner = owners.setdefault((tensor.data_ptr(), tuple(tensor.shape)), name)
        if owner == name:
            kept[name] = tensor.detach().cpu().contiguous()
        else:
            tied[name] = owner
    return kept, tied


def _empty_model(folder: Path, task: str, dtype: torch.dtype) -> Any:
    import transformers
    from transformers.initialization import no_init_weights

    settings = read_config(folder)
    settings.pop("quantization_config", None)
    model_type = settings.pop("model_type")
    config = transformers.AutoConfig.for_model(model_type, **settings)
    auto_class = getattr(transformers, load_task(task).auto_class_of(model_type))
    try:
        with quiet_transformers(), no_init_weights():
            model = auto_class.from_config(config, dtype=dtype)
    except (ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"this compressed model is not made for {task}", value=str(folder), allowed="its own task", key="model.task"
        ) from error
    model.tie_weights()
    generation = folder / "generation_config.json"
    if generation.exists():
        model.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return model


def place_layers(model: Any, info: CompressionInfo) -> None:
    """Put empty int8 layers where the file has them.

    Raises:
        ModelError: the model has no such layers.
    """
    from fastserve_ray.models.layers import replace_layer, weight_by_output
    from fastserve_ray.models.quantized import INT8_LAYERS

    for name in info.layers:
        try:
            module = model.get_submodule(name)
        except AttributeError as error:
            raise ModelError("the model has no such layer", value=name, key=COMPRESSION_FILE) from error
        out_features, in_features = weight_by_output(module).shape
        has_bias = getattr(module, "bias", None) is not None
        layer = INT8_LAYERS[info.scheme](in_features, out_features, has_bias=has_bias)
        if layer.bias is not None:
            layer.bias = layer.bias.to(model.dtype)
        replace_layer(model, name, layer)


def read_info(folder: Path) -> CompressionInfo:
    """``compression.json``.

    Raises:
        ModelError: it is missing or damaged.
    """
    try:
        return CompressionInfo.model_validate_json((folder / COMPRESSION_FILE).read_text())
    except (OSError, ValidationError) as error:
        raise _damaged(folder, error) from error


def _damaged(folder: Path, error: Exception) -> ModelError:
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(
        f"this compressed model cannot be read ({first})",
        value=str(folder),
        allowed="a folder that the compress stage published",
        key="model.base",
    )
