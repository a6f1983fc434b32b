"""Completions of a random model that are what the request asked for, every one of them."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from typing import TYPE_CHECKING, cast

import pytest
import torch

from fastserve_ray.engines.offline import Completion, generate_all
from fastserve_ray.engines.protocol import (
    Constraint,
    GenerateRequest,
    Grammar,
    JsonObject,
    JsonSchema,
    Regex,
    SamplingParams,
)
from fastserve_ray.engines.table import open_engine
from fastserve_ray.engines.torch.constrained import Constraints
from fastserve_ray.engines.torch.sampling import Sampler
from fastserve_ray.errors import EngineError
from tests.engines.tiny import VOCAB_SIZE, build_engine, build_model, build_tokenizer, random_prompts
from tests.engines.torch.test_detokenize import byte_fallback_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.torch.engine import TorchEngine

SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 5},
            "age": {"type": "integer", "minimum": 0, "maximum": 120},
            "tags": {"type": "array", "items": {"enum": ["a", "b", "grüße"]}, "maxItems": 2},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    }
)
ARITHMETIC = """
start: term (op term)~2
op: "+" | "*"
term: /[0-9]{1,2}/
"""


@pytest.fixture(scope="module")
def engine() -> TorchEngine:
    return build_engine(build_model(initializer_range=0.1))


def complete(
    engine: TorchEngine, constraint: Constraint | None, count: int = 4, max_tokens: int = 90
) -> list[Completion]:
    prompts = random_prompts(count, longest=30)
    requests = [
        GenerateRequest(str(at), prompt, SamplingParams(max_tokens=max_tokens, seed=at, constraint=constraint))
        for at, prompt in enumerate(prompts)
    ]
    return generate_all(engine, requests)


def test_json_schema(engine: TorchEngine) -> None:
    for completion in complete(engine, JsonSchema(SCHEMA)):
        assert completion.finish_reason == "stop", completion.text
        value = json.loads(completion.text)
        assert set(value) == {"name", "age", "tags"}
        assert isinstance(value["name"], str)
        assert len(value["name"]) <= 5
        assert 0 <= value["age"] <= 120
        assert set(value["tags"]) <= {"a", "b", "grüße"}


def test_json_object(engine: TorchEngine) -> None:
    ended = [found for found in complete(engine, JsonObject(), count=8) if found.finish_reason == "stop"]
    assert ended, "a random model closes some objects in time"
    assert all(isinstance(json.loads(completion.text), dict) for completion in ended)


def test_regex(engine: TorchEngine) -> None:
    pattern = r"(cat|dog)-[0-9]{3}(é|🙂)"
    for completion in complete(engine, Regex(pattern)):
        assert re.fullmatch(pattern, completion.text)
        assert completion.finish_reason == "stop"


def test_grammar(engine: TorchEngine) -> None:
    for completion in complete(engine, Grammar(ARITHMETIC)):
        assert re.fullmatch(r"[0-9]{1,2}([+*][0-9]{1,2}){2}", completion.text)


def test_beside_requests_without(engine: TorchEngine) -> None:
    prompt = random_prompts(1)[0]
    free = GenerateRequest("free", prompt, SamplingParams(max_tokens=12, temperature=0))
    (alone,) = generate_all(engine, [free])
    bound = GenerateRequest("bound", prompt, SamplingParams(max_tokens=12, temperature=0, constraint=Regex("[ab]{4}")))
    together = generate_all(engine, [bound, free])
    assert re.fullmatch("[ab]{4}", together[0].text)
    assert together[1].token_ids == alone.token_ids


def test_with_everything_else(engine: TorchEngine) -> None:
    """Seeds, several completions, filters and log probabilities, alone and in company."""
    sampling = SamplingParams(
        max_tokens=60,
        seed=7,
        n=2,
        top_p=0.9,
        temperature=1.5,
        repetition_penalty=1.1,
        logprobs=True,
        constraint=Regex("[a-z]{3} [0-9]{2}"),
    )
    request = GenerateRequest("a", random_prompts(1)[0], sampling)
    others = [GenerateRequest(f"other {at}", prompt, sampling) for at, prompt in enumerate(random_prompts(3, seed=1))]
    alone = generate_all(engine, [request])
    assert generate_all(engine, [*others, request])[-2:] == alone
    assert alone[0].text != alone[1].text
    for completion in alone:
        assert re.fullmatch("[a-z]{3} [0-9]{2}", completion.text)
        assert [step.token_id for step in completion.logprobs] == list(completion.token_ids)
        assert all(step.logprob < 0 for step in completion.logprobs)


def test_bias_and_greedy_choose_among_what_is_allowed(engine: TorchEngine) -> None:
    letter = build_tokenizer().convert_tokens_to_ids("b")
    sampling = SamplingParams(max_tokens=20, temperature=0, constraint=Regex("[abc]{5}"), logit_bias=((letter, 100.0),))
    (completion,) = generate_all(engine, [GenerateRequest("a", (3, 4), sampling)])
    assert completion.text == "bbbbb"
    sampling = SamplingParams(max_tokens=20, temperature=0, constraint=Regex("[xyz]{5}"), logit_bias=((letter, 100.0),))
    (completion,) = generate_all(engine, [GenerateRequest("a", (3, 4), sampling)])
    assert re.fullmatch("[xyz]{5}", completion.text)


def test_min_tokens_hold_within_a_grammar(engine: TorchEngine) -> None:
    """An end-of-sequence token that the grammar allows waits too; one that is all there is does not."""
    end = ((1, 100.0),)
    digits = SamplingParams(max_tokens=20, temperature=0, constraint=Regex("[0-9]+"), logit_bias=end)
    (early,) = generate_all(engine, [GenerateRequest("a", (3, 4), digits)])
    assert early.num_completion_tokens == 2
    late = SamplingParams(max_tokens=20, temperature=0, constraint=Regex("[0-9]+"), logit_bias=end, min_tokens=6)
    (found,) = generate_all(engine, [GenerateRequest("a", (3, 4), late)])
    assert found.num_completion_tokens == 7
    assert re.fullmatch("[0-9]{6,}", found.text)
    for pattern in ("", "[0-9]?"):
        none = SamplingParams(max_tokens=20, temperature=0, constraint=Regex(pattern), min_tokens=3)
        (found,) = generate_all(engine, [GenerateRequest("a", (3, 4), none)])
        assert (found.finish_reason, found.error) == ("stop", None)
    short = SamplingParams(max_tokens=20, temperature=0, constraint=Regex("[0-9]{2}"), min_tokens=6)
    (found,) = generate_all(engine, [GenerateRequest("a", (3, 4), short)])
    assert (len(found.text), found.finish_reason) == (2, "stop")


def test_a_stop_string_ends_it_early(engine: TorchEngine) -> None:
    sampling = SamplingParams(max_tokens=20, constraint=Regex("[0-9]{2}-[0-9]{2}"), stop=("-",), seed=0)
    (completion,) = generate_all(engine, [GenerateRequest("a", (3, 4), sampling)])
    assert re.fullmatch("[0-9]{2}", completion.text)
    assert completion.finish_reason == "stop"


@pytest.mark.parametrize("kind", ["bytes to letters", "byte fallback"])
def test_walks_of_both_kinds_of_tokenizers(kind: str) -> None:
    """Any token that is allowed leads on to a text that matches; the logits are wider than the vocabulary."""
    tokenizer = build_tokenizer() if kind == "bytes to letters" else byte_fallback_tokenizer()
    width = len(tokenizer) + 40
    constraints = Constraints(tokenizer, width, [tokenizer.eos_token_id])
    pattern, draw = r" ?(once|grüße|東京)( upon| [a-z🙂]{2}){1,3}!", random.Random(0)
    for _ in range(20):
        matcher = constraints.matcher(Regex(pattern))
        tokens: list[int] = []
        while not matcher.is_complete:
            allowed = matcher.allowed()
            assert allowed.shape == (width,)
            assert not allowed[len(tokenizer) :].any()
            tokens.append(draw.choice(allowed.nonzero().flatten().tolist()))
            matcher.push(tokens[-1])
        assert matcher.error is None
        assert re.fullmatch(pattern, tokenizer.decode(tokens, skip_special_tokens=True)), tokens


def test_without_the_library(engine: TorchEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(EngineError, match="pip install llguidance") as caught:
        complete(engine, Regex("a"))
    assert caught.value.key == "constraint"
    assert len(complete(engine, None, max_tokens=3)) == 4


def test_the_library_is_loaded_when_asked_for() -> None:
    check = "import sys, fastserve_ray.engines.torch.engine; print('llguidance' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_matcher_that_gave_up_fails_its_request() -> None:
    """Its mask allows the end-of-sequence token, but the completion is not what was asked for."""
    matcher = Constraints(build_tokenizer(), VOCAB_SIZE, [1]).matcher(Regex("[ab]{4}"))
    matcher.push(build_tokenizer().convert_tokens_to_ids("c"))
    assert not matcher.is_complete
    sampler = Sampler(SamplingParams(constraint=Regex("[ab]{4}")), (), vocab_size=VOCAB_SIZE, matcher=matcher)
    assert sampler.sample(torch.zeros(VOCAB_SIZE)) is None
    assert "doesn't satisfy the grammar" in (sampler.error or "")
    assert "\n" not in (sampler.error or "")


def test_a_tokenizer_that_cannot_be_read_is_refused() -> None:
    with pytest.raises(EngineError, match="cannot be constrained") as caught:
        Constraints(object(), VOCAB_SIZE, [1]).matcher(Regex("a"))
    assert caught.value.key == "constraint"


def test_cut_short_by_max_tokens(engine: TorchEngine) -> None:
    (completion,) = complete(engine, JsonSchema(SCHEMA), count=1, max_tokens=3)
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (JsonSchema("{not json"), "JSON schema"),
        (JsonSchema('{"type": "no such type"}'), "JSON schema"),
        (JsonSchema("[" * 100_000), "JSON schema"),
        (JsonSchema('{"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}'), "no text fulfils it"),
        (Grammar('start: start "a"'), "no text fulfils it"),
        (Regex("(unclosed"), "regular expression"),
        (Grammar("start: nowhere"), "grammar"),
    ],
)
def test_what_cannot_be_read_is_refused(engine: TorchEngine, constraint: Constraint, reason: str) -> None:
    with pytest.raises(EngineError, match=reason) as caught:
        complete(engine, constraint)
    assert caught.value.key == "constraint"
    assert not engine.has_work()


def test_a_trained_model_with_another_kind_of_tokenizer(shared_folder: Path) -> None:
    engine = cast("TorchEngine", open_engine(shared_folder / "models" / "stories260K", "text-generation"))
    prompt = tuple(engine.tokenizer("Once upon a time").input_ids)
    for seed in range(4):
        sampling = SamplingParams(max_tokens=90, seed=seed, constraint=JsonSchema(SCHEMA))
        (completion,) = generate_all(engine, [GenerateRequest("a", prompt, sampling)])
        assert json.loads(completion.text).keys() == {"name", "age", "tags"}
