"""Greedy output equals transformers' generate, for every family, whatever the batch and the chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.errors import EngineError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import (
    FAMILIES,
    SHAPE,
    build_engine,
    build_model,
    check_crowded_cache,
    generate,
    greedy,
    random_prompts,
)

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = random_prompts(8)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_equals_generate(family: str) -> None:
    model = build_model(family)
    expected = [generate(model, prompt) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) > 20, "the model repeats itself; compares nothing"
    engine = build_engine(model, max_num_seqs=5, max_num_batched_tokens=16, kv_cache_tokens=256)
    completions = generate_all(engine, [greedy(at, prompt) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected
    assert engine.stats().kv_tokens_used == 0


@pytest.mark.parametrize(
    ("max_num_seqs", "max_num_batched_tokens", "kv_cache_tokens"),
    [(1, 1, 128), (8, 3, 128), (3, 64, 160), (8, 2048, 2048)],
)
@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2"])
def test_budgets_do_not_change_tokens(
    family: str, max_num_seqs: int, max_num_batched_tokens: int, kv_cache_tokens: int
) -> None:
    model = build_model(family)
    expected = [generate(model, prompt, 12) for prompt in PROMPTS]
    engine = build_engine(
        model,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        kv_cache_tokens=kv_cache_tokens,
    )
    completions = generate_all(engine, [greedy(at, prompt, 12) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_preemptions_swaps_and_prefix_hits_do_not_change_tokens(family: str) -> None:
    check_crowded_cache(build_engine, family, PROMPTS, 24)


def test_bfloat16_runs() -> None:
    model = build_model().to(torch.bfloat16)
    (completion,) = generate_all(build_engine(model), [greedy("a", PROMPTS[0], 8)])
    assert completion.num_completion_tokens == 8


def test_dynamic_int8_linears_run() -> None:
    model = torch.ao.quantization.quantize_dynamic(build_model("opt"), {torch.nn.Linear})
    expected = generate(model, PROMPTS[1], 12)
    (completion,) = generate_all(build_engine(model), [greedy("a", PROMPTS[1], 12)])
    assert completion.token_ids == expected


@pytest.mark.parametrize(
    ("family", "changes", "reason"),
    [
        ("bloom", {}, "does not take its attention from outside"),
        ("mamba", {}, "does not take its attention from outside"),
        ("gemma2", {"intermediate_size": 96, "num_key_value_heads": 1, "head_dim": 16}, "softcap"),
        ("llama4_text", {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}, "chunked_attention"),
    ],
)
def test_what_does_not_fit_is_refused(family: str, changes: dict[str, Any], reason: str) -> None:
    config = AutoConfig.for_model(family, **{**SHAPE, **changes})
    with pytest.raises(EngineError, match=reason):
        build_engine(AutoModelForCausalLM.from_config(config), max_model_len=64)


def test_wrong_logits_are_refused() -> None:
    """A model that looks at its neighbours in the row, as no flag tells, is found by the check at start-up."""
    model = build_model()
    forward = model.model.embed_tokens.forward
    model.model.embed_tokens.forward = lambda ids: forward(ids) + forward(ids.roll(1, dims=-1))
    with pytest.raises(EngineError, match="other logits in a ragged batch"):
        build_engine(model)


def test_an_adopted_model_is_not_called_by_itself() -> None:
    model = build_model()
    build_engine(model)
    with pytest.raises(EngineError, match="belongs to a FastServe engine"):
        model(torch.tensor([[3, 4]]))


def test_stories_model(shared_folder: Path) -> None:
    """A trained model: long completions, its own list of end tokens."""
    folder = shared_folder / "models" / "stories260K"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    texts = ["Once upon a time", "The little dog", "Lily and Tom went to the park. They", "One day"]
    prompts = [tuple(tokenizer(text).input_ids) for text in texts]
    expected = [generate(model, prompt, 200) for prompt in prompts]
    engine = build_generate_engine(model, tokenizer, EngineSpec(max_num_seqs=3, max_num_batched_tokens=8))
    completions = generate_all(engine, [greedy(at, prompt, 200) for at, prompt in enumerate(prompts)])
    assert [completion.token_ids for completion in completions] == expected
    for prompt, completion in zip(prompts, completions, strict=True):
        whole = tokenizer.decode([*prompt, *completion.token_ids], skip_special_tokens=True)
        assert tokenizer.decode(prompt, skip_special_tokens=True) + completion.text == whole
