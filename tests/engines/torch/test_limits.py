from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoConfig

from fastserve_ray.engines.torch.limits import choose_max_model_len, eos_token_ids
from fastserve_ray.errors import EngineError


def config(family: str = "llama", **settings: Any) -> Any:
    return AutoConfig.for_model(family, **settings)


def test_positions_are_the_limit() -> None:
    assert choose_max_model_len(config(max_position_embeddings=100), None) == 100
    assert choose_max_model_len(config(max_position_embeddings=100), 40) == 40
    assert choose_max_model_len(config("gpt2", n_positions=77), None) == 77
    with pytest.raises(EngineError, match="longer than the model's positions") as caught:
        choose_max_model_len(config(max_position_embeddings=100), 101)
    assert caught.value.key == "serve.engine.max_model_len"


def test_no_positions_needs_an_answer() -> None:
    assert choose_max_model_len(config("bloom"), 64) == 64
    with pytest.raises(EngineError, match="do not say how long"):
        choose_max_model_len(config("bloom"), None)


def test_rope_that_depends_on_the_batch_is_cut_to_where_it_does_not() -> None:
    rope = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 64}
    assert choose_max_model_len(config(max_position_embeddings=256, rope_parameters=rope), None) == 64


@pytest.mark.parametrize(
    ("generation", "model", "tokenizer", "expected"),
    [
        (5, 6, 7, {5}),
        ([5, 8], 6, 7, {5, 8}),
        (None, 6, 7, {6}),
        (None, [6, 9], 7, {6, 9}),
        (None, None, 7, {7}),
        (0, 6, 7, {0}),
        (None, None, None, set()),
    ],
)
def test_end_tokens(generation: Any, model: Any, tokenizer: Any, expected: set[int]) -> None:
    fake = SimpleNamespace(
        generation_config=SimpleNamespace(eos_token_id=generation),
        config=SimpleNamespace(get_text_config=lambda: SimpleNamespace(eos_token_id=model)),
    )
    assert eos_token_ids(fake, SimpleNamespace(eos_token_id=tokenizer)) == expected
