"""From a call's text or messages to tokens, with the model's own tokenizer and chat template."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from fastserve_ray.engines.protocol import GenerateRequest
from fastserve_ray.serve.failures import RequestFailed, context_length_exceeded, invalid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastserve_ray.serve.calls import GenerateCall


SHORT_CHARACTERS = 1000
"""A text of this length is tokens in about a millisecond."""


def is_short(call: GenerateCall) -> bool:
    """Whether `build_requests` is done at once: what is to be tokenized is little, or nothing."""
    texts = [prompt for prompt in call.prompts if isinstance(prompt, str)]
    return call.messages is None and sum(map(len, texts)) <= SHORT_CHARACTERS


def has_chat_template(tokenizer: Any) -> bool:
    return bool(getattr(tokenizer, "chat_template", None))


def build_requests(call: GenerateCall, tokenizer: Any, max_model_len: int) -> list[GenerateRequest]:
    """The engine's requests, one for each prompt.

    Raises:
        RequestFailed: no chat template, a conversation that the template refuses, an empty prompt, or one that with
            its completion is longer than the context.
    """
    prompts = call.prompts
    if call.messages is not None:
        prompts = (
            render(call.messages, tokenizer, tools=call.tools, must_show_tools=call.constraint_field != "tools"),
        )
    requests = []
    for number, prompt in enumerate(prompts):
        ids = (
            tuple(prompt)
            if not isinstance(prompt, str)
            else tokenize(prompt, tokenizer, add_special_tokens=call.messages is None)
        )
        limit = _token_limit(call, len(ids), max_model_len)
        requests.append(
            GenerateRequest(
                f"{call.request_id}-{number}",
                ids,
                dataclasses.replace(call.sampling, max_tokens=limit),
                priority=call.priority,
                share_key=call.share_key,
                share_weight=call.share_weight,
            )
        )
    return requests


def render(
    messages: Sequence[Mapping[str, object]],
    tokenizer: Any,
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, object]] = (),
    must_show_tools: bool = True,
) -> str:
    """The conversation as the model's chat template writes it.

    Args:
        tools: functions that the template shows to the model.
        must_show_tools: refuse a template that shows none: a call comes then only where it is forced.

    Raises:
        RequestFailed: there is no template, it refuses the messages, or it shows no tools.
    """
    from jinja2 import TemplateError

    if not has_chat_template(tokenizer):
        raise RequestFailed(
            invalid(
                "this model's tokenizer has no chat template, so it cannot read messages; use /v1/completions",
                param="messages",
                code="no_chat_template",
            )
        )
    if tools and must_show_tools and "tools" not in str(tokenizer.chat_template):
        raise RequestFailed(
            invalid(
                "this model's chat template shows no tools; with tool_choice required, or a function's name, calls are "
                "made sure of without it",
                param="tools",
                code="no_tools_in_template",
            )
        )
    try:
        text: str = tokenizer.apply_chat_template(
            list(messages),
            tools=list(tools) or None,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )
    except TemplateError as error:
        reason = f"the model's chat template refuses these messages: {error}"
        raise RequestFailed(invalid(reason, param="messages", code="invalid_value")) from error
    return text


def tokenize(text: str, tokenizer: Any, *, add_special_tokens: bool) -> tuple[int, ...]:
    """A chat template writes its special tokens itself: its text is read without adding any."""
    return tuple(tokenizer(text, add_special_tokens=add_special_tokens)["input_ids"])


def _token_limit(call: GenerateCall, num_prompt_tokens: int, max_model_len: int) -> int:
    room = max_model_len - num_prompt_tokens
    if not num_prompt_tokens:
        raise RequestFailed(invalid("the prompt has no tokens", param=call.prompt_field, code="invalid_value"))
    if call.max_prompt_tokens is not None and num_prompt_tokens > call.max_prompt_tokens:
        message = (
            f"this server reads prompts of at most {call.max_prompt_tokens} tokens; this one has {num_prompt_tokens}"
        )
        raise RequestFailed(invalid(message, param=call.prompt_field, code="prompt_too_long"))
    if room < (call.max_tokens or 1):
        failure = context_length_exceeded(num_prompt_tokens, call.max_tokens, max_model_len, call.prompt_field)
        raise RequestFailed(failure)
    return call.max_tokens or room
