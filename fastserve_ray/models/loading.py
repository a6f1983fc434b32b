"""A hub id, a folder or a config to a model with its tokenizer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ModelError
from fastserve_ray.models.config import error_lines, label_settings, make_config
from fastserve_ray.models.pooling import read_pooling
from fastserve_ray.models.quiet import quiet_transformers
from fastserve_ray.tasks.table import load_task

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch
    from transformers import PreTrainedTokenizerBase

    from fastserve_ray.models.pooling import Pooling

COMPRESSION_FILE = "compression.json"
"""Present in the folder of a compressed artifact only."""

EMBEDDING = "text-embedding"
"""The task of a model that is only served."""

ADAPTER_FOLDER = "adapter"
"""Below a model's folder: a learned prompt or prefix, which its weights cannot hold."""

_LOADING_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError)
"""What transformers raises for folders and hub ids that it cannot use."""

DTYPES = ("auto", "float32", "bfloat16")


@dataclass
class LoadedModel:
    """A model ready to run, on the CPU and in evaluation mode, with its tokenizer."""

    model: torch.nn.Module
    tokenizer: PreTrainedTokenizerBase
    task: str
    pooling: Pooling | None = None
    """Of an embedding model."""


def load_tokenizer(reference: str | Path, *, revision: str | None = None, trust_remote_code: bool = False) -> Any:
    """The tokenizer of a hub model or folder, with a padding token (the end-of-text token where it has none).

    Raises:
        ModelError: there is none, or it cannot be read.
    """
    from transformers import AutoTokenizer

    _refuse_missing_folder(reference)
    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(
                str(reference), revision=revision, trust_remote_code=trust_remote_code
            )
    except _LOADING_ERRORS as error:
        raise _not_loaded("tokenizer", reference, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            "the tokenizer has no token to pad with",
            value=str(reference),
            allowed="a tokenizer with a pad_token, eos_token or unk_token",
            key="model.base",
            hint="name one in the folder's tokenizer_config.json",
        )
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

    An encoder without a classification head, or with one for another number of classes, gets a fresh one drawn from
    ``seed``; ``label_names`` go into its config.

    Args:
        reference: hub id or folder.
        task: a task of ``tasks.table``.
        dtype: "auto" keeps the type the weights are stored in.

    Raises:
        ModelError: not found, not readable, or not made for the task.
    """
    if dtype not in DTYPES:
        raise ModelError("unknown number format", value=dtype, allowed=", ".join(DTYPES), key="dtype")
    if (Path(reference) / COMPRESSION_FILE).exists():
        from fastserve_ray.models.compressed import load_compressed

        return load_compressed(Path(reference), task, dtype=dtype)
    import torch
    import transformers
    from safetensors import SafetensorError

    tokenizer = load_tokenizer(reference, revision=revision, trust_remote_code=trust_remote_code)
    labels = label_settings(num_labels, label_names)
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = transformers.AutoConfig.from_pretrained(
                str(reference), revision=revision, trust_remote_code=trust_remote_code
            )
            auto_class = getattr(transformers, _auto_class(task, config.model_type))
            model, report = auto_class.from_pretrained(
                str(reference),
                revision=revision,
                dtype=dtype if dtype == "auto" else getattr(torch, dtype),
                trust_remote_code=trust_remote_code,
                ignore_mismatched_sizes=bool(labels),
                output_loading_info=True,
                **labels,
            )
    except (*_LOADING_ERRORS, RuntimeError, SafetensorError) as error:
        raise _not_loaded(f"{task} model", reference, error) from error
    _refuse_missing_weights(model, report, task, reference)
    if model.config.pad_token_id is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    pooling = read_pooling(reference, revision) if task == EMBEDDING else None
    return LoadedModel(_with_adapter(model, reference).eval(), tokenizer, task, pooling)


def _auto_class(task: str, model_type: str | None = None) -> str:
    """Of transformers. A model for embeddings is one without a head, and is not trained here."""
    if task == EMBEDDING:
        return "AutoModel"
    known = load_task(task)
    return known.auto_class if model_type is None else known.auto_class_of(model_type)


def has_adapter(folder: str | Path) -> bool:
    """Whether a published model is more than its weights."""
    return (Path(folder) / ADAPTER_FOLDER / "adapter_config.json").is_file()


def _with_adapter(model: Any, reference: str | Path) -> Any:
    if not has_adapter(reference):
        return model
    from peft import PeftModel

    return PeftModel.from_pretrained(model, str(Path(reference) / ADAPTER_FOLDER))


def build_from_config(
    config: Mapping[str, Any], task: str, tokenizer: Any, *, seed: int, label_names: Sequence[str] | None = None
) -> torch.nn.Module:
    """A float32 model with random weights drawn from ``seed``; vocabulary and special tokens are the tokenizer's.

    Raises:
        ModelError: the model type or a key is unknown, or the config does not make a model for the task.
    """
    import torch
    import transformers

    made = make_config(config, tokenizer, label_names)
    try:
        with quiet_transformers(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: torch.nn.Module = getattr(transformers, load_task(task).auto_class_of(made.model_type)).from_config(
                made, dtype=torch.float32
            )
    except (ValueError, KeyError, TypeError, RuntimeError, AttributeError, ImportError, ZeroDivisionError) as error:
        raise ModelError(
            f"this config makes no {task} model ({error_lines(error)[0]})",
            value=made.model_type,
            allowed=f"a model type for which transformers has an {load_task(task).auto_class}",
            key="model.config",
        ) from error
    return model


def save_model(
    model: Any, tokenizer: Any, folder: Path, *, state_dict: Mapping[str, torch.Tensor] | None = None
) -> None:
    """Write a Hugging Face folder: config, safetensors, tokenizer; weights that are tied are written once.

    Args:
        state_dict: weights to write in place of the model's own.
    """
    with quiet_transformers():
        # transformers empties the mapping that it is given
        model.save_pretrained(folder, state_dict=None if state_dict is None else dict(state_dict))
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


def _refuse_missing_folder(reference: str | Path) -> None:
    """transformers takes a path that is not there for a hub id, and says nothing of the folder."""
    text = str(reference)
    looks_like_path = isinstance(reference, Path) or text.startswith(("/", "./", "../", "~")) or text.count("/") > 1
    if looks_like_path and not Path(reference).is_dir():
        raise ModelError(
            "there is no such model folder",
            value=text,
            allowed="a folder that save_pretrained wrote, or a hub id such as gpt2",
            key="model.base",
        )


def _refuse_missing_weights(model: Any, report: Mapping[str, Any], task: str, reference: str | Path) -> None:
    """A new head over whole texts is welcome; any other weight left random means that the model is of another kind."""
    missing = sorted({*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])})
    if task == "text-classification":
        body = f"{model.base_model_prefix}."
        missing = [name for name in missing if name.startswith(body) and "pooler" not in name]
    if task == EMBEDDING:
        missing = [name for name in missing if "pooler" not in name]
    if task == "masked-lm":
        missing = [name for name in missing if "pooler" not in name and "seq_relationship" not in name]
    if missing:
        raise ModelError(
            f"these weights are not of a {task} model: {len(missing)} are missing, for example {missing[0]}",
            value=f"{reference} ({', '.join(model.config.architectures or [model.config.model_type])})",
            allowed=f"a model that {_auto_class(task)} loads whole",
            key="model.base",
            hint="is model.task the one that the model was made for?",
        )


def _not_loaded(what: str, reference: str | Path, error: BaseException) -> ModelError:
    is_offline = "connect" in str(error)
    return ModelError(
        f"cannot load the {what} ({error_lines(error)[0]})",
        value=str(reference),
        allowed="a folder that save_pretrained wrote, or a hub id that this machine can reach",
        key="model.base",
        hint="download it where there is a network, and name the folder" if is_offline else None,
    )
