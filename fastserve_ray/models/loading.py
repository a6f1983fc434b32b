"""A hub id, a folder or a config to a model with its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ModelError
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class LoadedModel:
    """A model ready to run, on the CPU and in evaluation mode, with its tokenizer."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    task: str


def load_tokenizer(reference: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub model or folder, with a padding token.

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(reference), revision=revision, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError, KeyError) as error:
        raise _not_loaded("tokenizer", reference, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_pretrained(
    reference: str | Path,
    task: str,
    *,
    revision: str | None = None,
    num_labels: int | None = None,
    label_names: Sequence[str] | None = None,
    dtype: str = "auto",
    trust_remote_code: bool = False,
    seed: int = 0,
) -> LoadedModel:
    """Load a model for a task; a compressed artifact's folder is recognised by its ``compression.json``.

    An encoder without a classification head gets a fresh one, drawn from ``seed``; ``label_names`` go into its config.

    Args:
        reference: hub id or folder.
        task: a task of ``tasks.table``.
        dtype: "auto" keeps the type the weights are stored in.

    Raises:
        ModelError: not found, not readable, or not made for the task.
    """
    from fastserve_ray.models.compressed import is_compressed, load_compressed

    if is_compressed(reference):
        return load_compressed(reference, task)
    import torch
    import transformers

    labels = _label_settings(num_labels, label_names)
    tokenizer = load_tokenizer(reference, revision=revision, trust_remote_code=trust_remote_code)
    torch.manual_seed(seed)
    try:
        model = getattr(transformers, load_task(task).auto_class).from_pretrained(
            str(reference),
            revision=revision,
            dtype=dtype if dtype == "auto" else getattr(torch, dtype),
            trust_remote_code=trust_remote_code,
            **labels,
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise _not_loaded(f"{task} model", reference, error) from error
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return LoadedModel(model.eval(), tokenizer, task)


def build_from_config(
    config: Mapping[str, Any], task: str, tokenizer: Any, *, seed: int, label_names: Sequence[str] | None = None
) -> torch.nn.Module:
    """A model with random weights drawn from ``seed``; vocabulary and special tokens are the tokenizer's.

    Raises:
        ModelError: the model type is unknown, or the config does not make a model for the task.
    """
    import torch
    import transformers

    settings = {
        **config,
        "vocab_size": config.get("vocab_size", len(tokenizer)),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **_label_settings(None, label_names),
    }
    model_type = str(settings.pop("model_type", ""))
    torch.manual_seed(seed)
    try:
        built = transformers.AutoConfig.for_model(model_type, **settings)
        model: torch.nn.Module = getattr(transformers, load_task(task).auto_class).from_config(built)
    except (ValueError, KeyError, TypeError, RuntimeError) as error:
        raise ModelError(
            f"this config makes no {task} model ({_first_line(error)})",
            value=model_type,
            allowed="the keys of a transformers config of a model type that has this task",
            key="model.config",
        ) from error
    return model


def save_model(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a model folder.

    Raises:
        ModelError: missing or not JSON.
    """
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise _not_loaded("model config", folder, error) from error
    return config


def _label_settings(num_labels: int | None, label_names: Sequence[str] | None) -> dict[str, Any]:
    if label_names:
        return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}
    return {} if num_labels is None else {"num_labels": num_labels}


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _not_loaded(what: str, reference: str | Path, error: BaseException) -> ModelError:
    return ModelError(
        f"cannot load the {what} ({_first_line(error)})",
        value=str(reference),
        allowed="a folder that save_pretrained wrote, or a hub id that this machine can reach",
        key="model.base",
    )
