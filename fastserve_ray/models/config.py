"""``model.config`` to a transformers config. Each key is checked: transformers itself keeps unknown ones in silence."""

from __future__ import annotations

import dataclasses
import difflib
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_GENERAL_KEYS = frozenset({"num_labels", "torch_dtype", "attn_implementation"})
"""Keys that any config takes although they are no fields of it."""


def make_config(config: Mapping[str, Any], tokenizer: Any, label_names: Sequence[str] | None = None) -> Any:
    """A ``PreTrainedConfig`` of ``config["model_type"]``; vocabulary and special tokens are the tokenizer's.

    Raises:
        ModelError: the model type or a key is unknown, a value has the wrong type, or values do not fit together.
    """
    from huggingface_hub.errors import StrictDataclassError

    given = dict(config)
    kind = _config_class(str(given.pop("model_type", "")))
    _refuse_unknown_keys(given, kind)
    settings = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **label_settings(None, label_names),
        **given,
    }
    try:
        made = kind(**settings)
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise ModelError(
            f"model.config is no config of this model type ({error_lines(error)[-1]})",
            value=kind.model_type,
            allowed="values as in the model type's transformers config",
            key="model.config",
        ) from error
    if made.vocab_size < len(tokenizer):
        raise ModelError(
            "the vocabulary of the model is smaller than the tokenizer's",
            value=made.vocab_size,
            allowed=f"{len(tokenizer)} or more, or leave it out",
            key="model.config.vocab_size",
        )
    return made


def label_settings(num_labels: int | None, label_names: Sequence[str] | None) -> dict[str, Any]:
    """Keys of a config that name a classifier's classes."""
    if label_names:
        return {"id2label": dict(enumerate(label_names)), "label2id": {name: i for i, name in enumerate(label_names)}}
    return {} if num_labels is None else {"num_labels": num_labels}


def error_lines(error: BaseException) -> list[str]:
    """The lines of its text, at least one; of a wrong config transformers puts the reason in the last, of a model that
    does not load in the first."""
    return [line.strip() for line in str(error).strip().splitlines()] or [type(error).__name__]


def _config_class(model_type: str) -> Any:
    from transformers import CONFIG_MAPPING

    if model_type in CONFIG_MAPPING:
        return CONFIG_MAPPING[model_type]
    near = difflib.get_close_matches(model_type, list(CONFIG_MAPPING), n=1)
    raise ModelError(
        "unknown model type",
        value=model_type or "nothing",
        allowed="a model type of transformers, for example llama, gpt2, bert",
        key="model.config.model_type",
        hint=f"did you mean {near[0]!r}?" if near else None,
    )


def _refuse_unknown_keys(given: Mapping[str, Any], kind: Any) -> None:
    known = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map) | _GENERAL_KEYS
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=1)
            raise ModelError(
                f"a {kind.model_type} config has no such key",
                value=name,
                allowed=", ".join(sorted(known)),
                key=f"model.config.{name}",
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
