"""Clients that know nothing of this server: litellm and LangChain, as they are."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import openai

    from fastserve_ray.serve.deploy import ServedApp

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network when it is imported

pytestmark = pytest.mark.slow

PROMPT = "the cat sat on the"
MESSAGES: Any = [{"role": "user", "content": "the dog barked"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Finds a word.",
        "parameters": {
            "type": "object",
            "properties": {"word": {"type": "string", "enum": ["cat", "dog"]}},
            "required": ["word"],
            "additionalProperties": False,
        },
    },
}
GREEDY: Any = {"temperature": 0, "max_tokens": 12}


@pytest.fixture(scope="module")
def expected(client: openai.OpenAI) -> str:
    text = client.chat.completions.create(model="tiny", messages=MESSAGES, **GREEDY).choices[0].message.content
    assert text
    return str(text)


@pytest.fixture(scope="module")
def completion(client: openai.OpenAI) -> str:
    return str(client.completions.create(model="tiny", prompt=PROMPT, **GREEDY).choices[0].text)


class TestLitellm:
    @pytest.fixture(scope="class")
    def ask(self, app: ServedApp) -> Any:
        import litellm

        def ask(**fields: Any) -> Any:
            base = {"model": "openai/tiny", "messages": MESSAGES, "api_base": f"{app.url}/v1", "api_key": "none"}
            return litellm.completion(**{**base, **GREEDY, "num_retries": 0, **fields})

        return ask

    def test_whole_and_streamed(self, ask: Any, expected: str) -> None:
        whole = ask()
        assert whole.choices[0].message.content == expected
        assert whole.usage.completion_tokens == 12
        chunks = list(ask(stream=True, stream_options={"include_usage": True}))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == expected
        assert [chunk.usage.completion_tokens for chunk in chunks if getattr(chunk, "usage", None)] == [12]

    @pytest.mark.parametrize("stream", [False, True])
    def test_tool_calls(self, ask: Any, stream: bool) -> None:
        import litellm

        answer = ask(tools=[TOOL], tool_choice="required", max_tokens=200, stream=stream)
        if stream:
            answer = litellm.stream_chunk_builder(list(answer), messages=MESSAGES)
        (call, *_) = answer.choices[0].message.tool_calls
        assert call.function.name == "look_up"
        assert call.function.arguments.replace(" ", "") in ('{"word":"cat"}', '{"word":"dog"}')
        assert answer.choices[0].finish_reason == "tool_calls"

    def test_completions(self, app: ServedApp, completion: str) -> None:
        import litellm

        base: Any = {"api_base": f"{app.url}/v1", "api_key": "none", "num_retries": 0}
        answer: Any = litellm.text_completion(model="text-completion-openai/tiny", prompt=PROMPT, **GREEDY, **base)
        assert answer.choices[0].text == completion

    def test_errors_come_as_its_own(self, ask: Any) -> None:
        import litellm

        with pytest.raises(litellm.NotFoundError, match="does not exist"):
            ask(model="openai/other")
        with pytest.raises(litellm.BadRequestError, match="temperature"):
            ask(temperature=3)
        with pytest.raises(litellm.ContextWindowExceededError):
            ask(max_tokens=100_000)


class TestLangchain:
    @pytest.fixture(scope="class")
    def model(self, app: ServedApp) -> Any:
        from langchain_openai import ChatOpenAI

        return ChatOpenAI(
            model="tiny", base_url=f"{app.url}/v1", api_key="none", temperature=0, max_tokens=12, max_retries=0
        )

    def test_whole_and_streamed(self, model: Any, expected: str) -> None:
        whole = model.invoke("the dog barked")
        assert whole.content == expected
        assert whole.usage_metadata["output_tokens"] == 12
        assert whole.response_metadata["finish_reason"] == "length"
        chunks = list(model.stream("the dog barked", stream_usage=True))
        total = chunks[0]
        for chunk in chunks[1:]:
            total += chunk
        assert total.content == expected
        assert total.usage_metadata == whole.usage_metadata

    async def test_batches_and_async(self, model: Any, expected: str) -> None:
        assert [message.content for message in model.batch(["the dog barked"] * 3)] == [expected] * 3
        assert (await model.ainvoke("the dog barked")).content == expected

    def test_completions(self, app: ServedApp, completion: str) -> None:
        from langchain_openai import OpenAI

        model = OpenAI(model="tiny", base_url=f"{app.url}/v1", api_key="none", max_retries=0, **GREEDY)
        assert model.invoke(PROMPT) == completion
        assert "".join(model.stream(PROMPT)) == completion

    def test_bound_tools(self, model: Any) -> None:
        answer = model.bind_tools([TOOL], tool_choice="look_up").invoke("the dog barked", max_tokens=200)
        assert [call["name"] for call in answer.tool_calls] == ["look_up"]
        assert answer.tool_calls[0]["args"]["word"] in ("cat", "dog")

    def test_structured_output(self, model: Any) -> None:
        schema = {**TOOL["function"]["parameters"], "title": "Word"}
        found = model.with_structured_output(schema, method="json_schema").invoke("the dog barked", max_tokens=200)
        assert found["word"] in ("cat", "dog")
