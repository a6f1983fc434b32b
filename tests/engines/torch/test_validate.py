"""Bounds of a request's parameters: what is outside is refused by its name, and the bounds themselves are allowed."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.engines.torch.validate import check_sampling
from fastserve_ray.errors import EngineError
from tests.engines.tiny import VOCAB_SIZE

NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": -1}, "min_tokens"),
        ({"min_tokens": 17, "max_tokens": 16}, "min_tokens"),
        ({"temperature": INFINITY}, "temperature"),
        ({"temperature": NAN}, "temperature"),
        ({"top_p": 1.01}, "top_p"),
        ({"top_p": NAN}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"min_p": -0.01}, "min_p"),
        ({"min_p": 1.01}, "min_p"),
        ({"min_p": NAN}, "min_p"),
        ({"presence_penalty": 2.01}, "presence_penalty"),
        ({"presence_penalty": NAN}, "presence_penalty"),
        ({"frequency_penalty": -2.01}, "frequency_penalty"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"repetition_penalty": INFINITY}, "repetition_penalty"),
        ({"repetition_penalty": NAN}, "repetition_penalty"),
        ({"logit_bias": ((5, 100.5),)}, "logit_bias"),
        ({"logit_bias": ((5, 1.0), (6, NAN))}, "logit_bias"),
        ({"logit_bias": ((VOCAB_SIZE, 1.0),)}, "logit_bias"),
        ({"logit_bias": ((-1, 1.0),)}, "logit_bias"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": -1}, "top_logprobs"),
        ({"top_logprobs": 1}, "top_logprobs"),
    ],
)
def test_out_of_bounds(parameters: dict[str, Any], key: str) -> None:
    with pytest.raises(EngineError) as caught:
        check_sampling(SamplingParams(**parameters), VOCAB_SIZE)
    assert caught.value.key == key
    assert caught.value.value is not None
    assert caught.value.allowed


@pytest.mark.parametrize(
    "parameters",
    [
        {"max_tokens": 1, "min_tokens": 1},
        {"temperature": 0.0},
        {"top_p": 1e-9, "top_k": 1, "min_p": 1.0},
        {"top_k": 10 * VOCAB_SIZE},
        {"presence_penalty": -2.0, "frequency_penalty": 2.0, "repetition_penalty": 0.5},
        {"logit_bias": ((0, -100.0), (VOCAB_SIZE - 1, 100.0))},
        {"n": 128, "seed": -(2**70)},
        {"logprobs": True, "top_logprobs": 20},
    ],
)
def test_the_bounds_are_allowed(parameters: dict[str, Any]) -> None:
    check_sampling(SamplingParams(**parameters), VOCAB_SIZE)
