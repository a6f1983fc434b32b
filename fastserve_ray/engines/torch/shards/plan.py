"""What can be served in shards, with errors that say what cannot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import EngineError
from fastserve_ray.models.cuts import PLANS, Share, possible_shards

if TYPE_CHECKING:
    from fastserve_ray.models.cuts import Cut

SHARDS_KEY = "serve.shards.tensor"


def plan_for(model_type: str) -> dict[str, Cut]:
    """The family's plan.

    Raises:
        EngineError: it has none; the message names those that have one.
    """
    if model_type not in PLANS:
        raise EngineError(
            "this family of models has no plan for shards",
            value=model_type,
            allowed=", ".join(sorted(PLANS)),
            key=SHARDS_KEY,
            hint="serve it with one shard, or quantize it so that it fits",
        )
    return PLANS[model_type]


def share_of(config: Any, rank: int, num_shards: int) -> Share:
    """What ``rank`` holds of a model with this transformers configuration.

    Raises:
        EngineError: the heads cannot be shared out evenly.
    """
    text = config.get_text_config()
    num_heads = int(text.num_attention_heads)
    num_kv_heads = int(getattr(text, "num_key_value_heads", None) or num_heads)
    possible = possible_shards(num_heads, num_kv_heads)
    if num_shards not in possible:
        raise EngineError(
            f"{num_heads} attention heads over {num_kv_heads} key and value heads cannot be shared "
            f"among {num_shards} shards",
            value=num_shards,
            allowed=", ".join(map(str, possible)),
            key=SHARDS_KEY,
        )
    return Share(rank, num_shards, num_heads, num_kv_heads)
