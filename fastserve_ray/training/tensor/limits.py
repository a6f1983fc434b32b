"""Which models can be cut."""

from __future__ import annotations

from typing import Any

from fastserve_ray.errors import ModelError
from fastserve_ray.models.cuts import ENCODER_PLANS, PLANS, Cut, Share, possible_shards

FAMILIES: dict[str, dict[str, Cut]] = {
    name: (PLANS | ENCODER_PLANS)[name] for name in ("bert", "gemma", "gpt2", "llama", "mistral", "qwen2", "qwen3")
}
"""Plans that training is proved with."""
KEY = "train.parallel.tensor"


def refuse_uncuttable(config: Any, tensor: int) -> None:
    """Check a model's transformers configuration before anything is exchanged.

    Raises:
        ModelError: its family has no plan, or its heads cannot be shared out evenly among ``tensor`` ranks.
    """
    if tensor == 1:
        return
    if config.model_type not in FAMILIES:
        raise ModelError(
            "this family of models has no plan for tensor parallelism",
            value=config.model_type,
            allowed=", ".join(FAMILIES),
            key=KEY,
            hint="train.parallel.zero: 3 splits weights of every model",
        )
    num_heads, num_kv_heads = heads_of(config)
    possible = possible_shards(num_heads, num_kv_heads)
    if tensor not in possible:
        raise ModelError(
            f"{num_heads} attention heads over {num_kv_heads} key and value heads cannot be shared out evenly",
            value=tensor,
            allowed=", ".join(map(str, possible)),
            key=KEY,
        )


def heads_of(config: Any) -> tuple[int, int]:
    """Attention heads, and key and value heads."""
    num_heads = int(config.num_attention_heads)
    return num_heads, int(getattr(config, "num_key_value_heads", None) or num_heads)


def shares_of(config: Any, size: int) -> list[Share]:
    """What each of ``size`` ranks holds of a model with this configuration."""
    num_heads, num_kv_heads = heads_of(config)
    return [Share(rank, size, num_heads, num_kv_heads) for rank in range(size)]
