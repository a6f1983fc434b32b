"""Keys of prompts."""

from __future__ import annotations

import subprocess
import sys

import pytest

from fastserve_ray.serve.routing.hint import (
    BLOCK_BYTES,
    BLOCK_TOKENS,
    MAX_BLOCKS,
    RoutingHint,
    text_keys,
    token_keys,
)


def test_prompts_share_as_many_keys_as_whole_blocks() -> None:
    prompt = list(range(5 * BLOCK_TOKENS))
    other = [*prompt[: 3 * BLOCK_TOKENS], *([7] * (2 * BLOCK_TOKENS))]
    same = [a == b for a, b in zip(token_keys(prompt), token_keys(other), strict=True)]
    assert same == [True, True, True, False, False]
    assert token_keys(prompt[:-1]) == token_keys(prompt)[:4]
    assert token_keys(prompt[: BLOCK_TOKENS - 1]) == ()


def test_a_key_tells_all_that_is_before_it() -> None:
    block = "x" * BLOCK_BYTES
    keys = text_keys(block * 3)
    assert len(set(keys)) == 3
    assert text_keys("y" * BLOCK_BYTES + block)[1] not in keys


def test_a_text_of_several_bytes_a_character() -> None:
    assert len(text_keys("ß" * BLOCK_BYTES)) == 2


def test_keys_are_the_same_in_every_process() -> None:
    code = f"from fastserve_ray.serve.routing.hint import text_keys; print(text_keys('a' * {2 * BLOCK_BYTES}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == str(text_keys("a" * 2 * BLOCK_BYTES))


def test_very_long_prompts_are_cut() -> None:
    assert len(token_keys([1] * BLOCK_TOKENS * (MAX_BLOCKS + 5))) == MAX_BLOCKS


@pytest.mark.parametrize(("cached", "missing"), [(0, 100.0), (1, 75.0), (4, 0.0)])
def test_missing_tokens(cached: int, missing: float) -> None:
    assert RoutingHint(keys=(1, 2, 3, 4), num_prompt_tokens=100.0).num_missing_tokens(cached) == missing


def test_a_prompt_without_a_whole_block_is_all_missing() -> None:
    assert RoutingHint(num_prompt_tokens=9.0).num_missing_tokens(0) == 9.0
