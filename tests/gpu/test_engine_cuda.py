"""The engine on a GPU: the same tokens as on the CPU in fp32, and bf16 that runs."""

from __future__ import annotations

from contextlib import closing

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch.shards.plan import PLANS
from tests.engines.tiny import build_engine, build_model, generate, greedy, random_prompts

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
PROMPTS = random_prompts(8)
MAX_TOKENS = 16


@pytest.mark.parametrize("family", PLANS)
def test_tokens_are_those_of_the_cpu(family: str) -> None:
    model = build_model(family)
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    engine = build_engine(model.to("cuda"), max_num_seqs=5, max_num_batched_tokens=16, kv_cache_tokens=256)
    with closing(engine):
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


def test_swaps_through_pinned_memory() -> None:
    model = build_model("llama")
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    engine = build_engine(model.to("cuda"), max_num_seqs=3, kv_cache_tokens=128, kv_host_tokens=256, max_model_len=96)
    with closing(engine):
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


def test_bfloat16() -> None:
    engine = build_engine(build_model("llama").to("cuda", torch.bfloat16), kv_cache_tokens=256)
    with closing(engine):
        (completion,) = generate_all(engine, [greedy("a", PROMPTS[0], MAX_TOKENS, ignore_eos=True)])
    assert completion.num_completion_tokens == MAX_TOKENS
