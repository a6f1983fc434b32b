"""Completions of a random model that are what the request asked for, every one of them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, cast

import pytest

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
from fastserve_ray.errors import EngineError
from tests.engines.tiny import build_engine, build_model, random_prompts

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


def test_cut_short_by_max_tokens(engine: TorchEngine) -> None:
    (completion,) = complete(engine, JsonSchema(SCHEMA), count=1, max_tokens=3)
    assert completion.finish_reason == "length"


@pytest.mark.parametrize(
    ("constraint", "reason"),
    [
        (JsonSchema("{not json"), "JSON schema"),
        (JsonSchema('{"type": "no such type"}'), "JSON schema"),
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
