"""``FastServe``'s short model description to the ``model`` section of the YAML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHAPE_KEYS = {
    "dim": "hidden_size",
    "num_heads": "num_attention_heads",
    "hidden_size": "intermediate_size",
    "num_layers": "num_hidden_layers",
}
"""Names here, and in a transformers config: there ``hidden_size`` is the width of the embeddings."""
FROM_SCRATCH = ("bert", "roberta", "llama", "qwen2", "qwen3", "mistral")
"""Model types whose configs have the names above."""
DEFAULT_VOCABULARY = 4096
DEFAULT_LENGTH = 128


def model_section(model_config: Mapping[str, Any]) -> tuple[dict[str, Any], int]:
    """The ``model`` section, and the length that texts are cut to.

    Raises:
        UsageError: a key is missing or unknown.
    """
    given = dict(model_config)
    kind = given.pop("model", None)
    if not isinstance(kind, str):
        raise UsageError("the model is not named", value=kind, allowed=_allowed(), key="model_config['model']")
    max_length = int(given.pop("max_length", DEFAULT_LENGTH))
    section: dict[str, Any] = {"task": "text-classification", "num_labels": given.pop("num_labels", None)}
    if kind not in FROM_SCRATCH:
        if given:
            raise UsageError(
                "a trained model has its shape already",
                value=", ".join(given),
                allowed=f"num_labels and max_length; or one of {', '.join(FROM_SCRATCH)} to train from scratch",
                key="model_config",
            )
        return {**section, "base": kind}, max_length
    vocab_size = int(given.pop("vocab_size", DEFAULT_VOCABULARY))
    unknown = sorted(set(given) - set(SHAPE_KEYS))
    if unknown:
        raise UsageError("unknown keys", value=", ".join(unknown), allowed=_allowed(), key="model_config")
    config = {SHAPE_KEYS[name]: value for name, value in given.items()}
    config |= {"model_type": kind, "max_position_embeddings": max(512, max_length)}
    if kind == "roberta":
        config["max_position_embeddings"] += 2  # its positions start behind the padding token's
    return {**section, "config": config, "tokenizer": {"kind": "bpe", "vocab_size": vocab_size}}, max_length


def _allowed() -> str:
    kinds, shape = ", ".join(FROM_SCRATCH), ", ".join(SHAPE_KEYS)
    return f"model ({kinds}, a folder or a hub id), num_labels, {shape}, vocab_size, max_length"
