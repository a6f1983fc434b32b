"""What cannot be served in shards is refused."""

from __future__ import annotations

import pytest
from transformers import LlamaConfig

from fastserve_ray.engines.torch.shards.plan import plan_for, share_of
from fastserve_ray.errors import EngineError


@pytest.mark.parametrize(
    ("num_heads", "num_kv_heads", "num_shards", "allowed"),
    [(4, 4, 3, "1, 2, 4"), (14, 2, 4, "1, 2, 14"), (4, 2, 8, "1, 2, 4"), (12, 3, 2, "1, 3, 6, 12")],
)
def test_heads_that_do_not_divide_are_refused(num_heads: int, num_kv_heads: int, num_shards: int, allowed: str) -> None:
    config = LlamaConfig(hidden_size=8 * num_heads, num_attention_heads=num_heads, num_key_value_heads=num_kv_heads)
    with pytest.raises(EngineError, match="cannot be shared among") as refusal:
        share_of(config, 0, num_shards)
    assert refusal.value.allowed == allowed
    assert refusal.value.key == "serve.shards.tensor"


def test_a_family_without_a_plan_is_refused_with_those_that_have_one() -> None:
    with pytest.raises(EngineError, match="no plan for shards") as refusal:
        plan_for("mixtral")
    assert refusal.value.value == "mixtral"
    assert "gpt_neox, llama, mistral" in str(refusal.value)
