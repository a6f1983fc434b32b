"""Greedy output of a sharded model equals transformers' generate in fp32, token for token, whatever else runs."""

from __future__ import annotations

import itertools
import socket
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.models.cuts import PLANS
from tests.engines.tiny import build_model, generate, greedy, random_prompts
from tests.engines.torch.shards.ranks import HOST, open_over_threads, save

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.torch.engine import TorchEngine

PROMPTS = random_prompts(8)
MAX_TOKENS = 16
JOINS_AT = (0, 0, 0, 3, 3, 9, 14, 14)
"""The step before which each request arrives."""
LEAVES, LEAVES_AT = "1", 8
"""A request whose client goes away in the middle."""


@pytest.mark.parametrize("num_shards", [2, 4])
@pytest.mark.parametrize("family", PLANS)
def test_requests_that_join_and_leave(family: str, num_shards: int, tmp_path: Path) -> None:
    model = build_model(family)
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    assert len({token for tokens in expected for token in tokens}) > 20, "the model repeats itself; compares nothing"
    folder = save(model, tmp_path / "model")
    budgets = {"max_num_seqs": 5, "max_num_batched_tokens": 16, "kv_cache_tokens": 256}
    with closing(open_over_threads(folder, num_shards, tmp_path / "store", **budgets)) as engine:
        tokens = drive(engine)
        assert engine.stats().kv_tokens_used == 0
    for at, want in enumerate(expected):
        got = tuple(tokens[str(at)])
        if str(at) == LEAVES:
            assert 0 < len(got) < len(want)
        assert got == (want[: len(got)] if str(at) == LEAVES else want)


def drive(engine: TorchEngine) -> dict[str, list[int]]:
    """Run all prompts; the tokens of each."""
    tokens: dict[str, list[int]] = {str(at): [] for at in range(len(PROMPTS))}
    step = 0
    while step <= max(JOINS_AT) or engine.has_work():
        for at, joins in enumerate(JOINS_AT):
            if joins == step:
                engine.add_request(greedy(at, PROMPTS[at], MAX_TOKENS))
        if step == LEAVES_AT:
            engine.cancel(LEAVES)
        for delta in engine.step():
            assert delta.finish_reason != "error"
            tokens[delta.request_id] += delta.token_ids
        step += 1
    return tokens


def test_preemptions_swaps_and_prefix_hits(tmp_path: Path) -> None:
    """Requests of rising priority with the same beginning, in a cache that holds a third of them: every rank moves the
    same blocks in the same step."""
    model = build_model("llama")
    beginning = random_prompts(1, seed=3, longest=1)[0] * 17
    prompts = [beginning + prompt for prompt in PROMPTS]
    expected = [generate(model, prompt, 24) for prompt in prompts]
    folder = save(model, tmp_path / "model")
    budgets = {"max_num_seqs": 3, "max_num_batched_tokens": 24, "kv_cache_tokens": 128, "kv_host_tokens": 96}
    tokens: dict[str, list[int]] = {str(at): [] for at in range(len(prompts))}
    with closing(open_over_threads(folder, 2, tmp_path / "store", max_model_len=96, **budgets)) as engine:
        for at, prompt in enumerate(prompts):
            engine.add_request(replace(greedy(at, prompt, 24), priority=at))
            for delta in itertools.chain.from_iterable(engine.step() for _ in range(3)):
                tokens[delta.request_id] += delta.token_ids
        while engine.has_work():
            for delta in engine.step():
                tokens[delta.request_id] += delta.token_ids
        stats = engine.stats()
    assert [tuple(got) for got in tokens.values()] == expected
    assert min(stats.num_preemptions, stats.num_swapped_blocks, stats.prefix_hit_tokens) > 0


def test_ranks_that_meet_at_an_address(tmp_path: Path) -> None:
    """As on several machines."""
    model = build_model("llama")
    expected = generate(model, PROMPTS[0], MAX_TOKENS)
    with socket.create_server((HOST, 0)) as server:
        port = server.getsockname()[1]
    with closing(open_over_threads(save(model, tmp_path), 2, f"tcp://{HOST}:{port}", kv_cache_tokens=256)) as engine:
        (completion,) = generate_all(engine, [greedy("a", PROMPTS[0], MAX_TOKENS)])
    assert completion.token_ids == expected
