"""The engine on a GPU: the tokens of the CPU in fp32, by both attentions and from graphs, and bf16 that runs."""

from __future__ import annotations

import logging
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch.paged.kernels import FlexKernel
from fastserve_ray.engines.torch.shards.factory import open_sharded_engine
from fastserve_ray.models.cuts import PLANS
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_engine, build_model, generate, greedy, random_prompts
from tests.engines.torch.paged.cases import Case
from tests.engines.torch.shards.ranks import save

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no CUDA device"),
]
PROMPTS = random_prompts(8)
MAX_TOKENS = 16
ATTENTIONS: dict[str, dict[str, Any]] = {
    "gather": {"attention": "gather"},
    "flex": {"attention": "flex", "cuda_graphs": False},
    "graphs": {"attention": "flex"},
}


@pytest.mark.parametrize("attention", ATTENTIONS)
@pytest.mark.parametrize("family", PLANS)
def test_tokens_are_those_of_the_cpu(family: str, attention: str) -> None:
    model = build_model(family)
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    spec = {"max_num_seqs": 5, "max_num_batched_tokens": 16, "kv_cache_tokens": 256, **ATTENTIONS[attention]}
    with closing(build_engine(model.to("cuda"), **spec)) as engine:
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_swaps_through_pinned_memory(attention: str) -> None:
    model = build_model("llama")
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    spec = {"max_num_seqs": 3, "kv_cache_tokens": 128, "kv_host_tokens": 256, "max_model_len": 96}
    with closing(build_engine(model.to("cuda"), **spec, **ATTENTIONS[attention])) as engine:
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


@pytest.mark.parametrize("attention", ATTENTIONS)
def test_bfloat16(attention: str) -> None:
    model = build_model("llama").to("cuda", torch.bfloat16)
    with closing(build_engine(model, kv_cache_tokens=256, **ATTENTIONS[attention])) as engine:
        (completion,) = generate_all(engine, [greedy("a", PROMPTS[0], MAX_TOKENS, ignore_eos=True)])
    assert completion.num_completion_tokens == MAX_TOKENS


def test_every_batch_size_is_captured(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), closing(build_engine(build_model().to("cuda"), max_num_seqs=20)) as engine:
        forward = engine._runner.paged
        assert forward is not None, caplog.text
        assert sorted(forward._replays) == [1, 2, 4, 8, 16, 24], caplog.text


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("bounds", [[(59, 60), (70, 71), (99, 100)], [(0, 1), (16, 17), (7, 20), (13, 200)]])
def test_flex_equals_plain_attention(bounds: list[tuple[int, int]], window: int | None) -> None:
    with torch.inference_mode():
        case = Case(bounds, window, device="cuda")
        torch.testing.assert_close(case.attend(FlexKernel()).cpu(), case.expected(), atol=2e-3, rtol=2e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_two_shards_over_nccl(family: str, tmp_path: Path) -> None:
    model = build_model(family)
    folder = save(model, tmp_path / "model")
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    with closing(open_sharded_engine(folder, EngineSpec(device="cuda"), num_shards=2)) as engine:
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected
