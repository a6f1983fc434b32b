"""What a model's configuration says about lengths and ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable

LENGTH_DEPENDENT_ROPE = ("dynamic", "longrope")
"""Rotary embeddings whose frequencies change with the longest sequence in the batch beyond the original length."""


def model_positions(config: Any) -> int | None:
    """Positions that the model can tell apart, or None when its configuration sets no limit."""
    text_config = config.get_text_config()
    positions = getattr(text_config, "max_position_embeddings", None)
    rope = getattr(text_config, "rope_parameters", None) or {}
    if positions is not None and rope.get("rope_type") in LENGTH_DEPENDENT_ROPE:
        original = rope.get("original_max_position_embeddings")
        original = original or getattr(text_config, "original_max_position_embeddings", None)
        positions = min(positions, original) if original else positions
    return positions


def choose_max_model_len(config: Any, asked: int | None) -> int:
    """Prompt and completion together, in tokens.

    Raises:
        EngineError: more is asked than the model's positions, or the model has no limit and nothing is asked.
    """
    positions = model_positions(config)
    if positions is None and asked is None:
        raise EngineError(
            f"{config.model_type} models do not say how long a text may be",
            key="serve.engine.max_model_len",
            hint="set the longest prompt and completion together, in tokens",
        )
    if positions is not None and asked is not None and asked > positions:
        raise EngineError(
            "max_model_len is longer than the model's positions",
            value=asked,
            allowed=f"at most {positions}",
            key="serve.engine.max_model_len",
        )
    length = asked if asked is not None else positions
    assert length is not None
    return int(length)


def eos_token_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end a completion: of the generation config, else of the config, else of the tokenizer."""
    sources: Iterable[Any] = (getattr(model, "generation_config", None), model.config.get_text_config(), tokenizer)
    for source in sources:
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            return frozenset(found if isinstance(found, list | tuple) else [found])
    return frozenset()
