"""Conversations become tokens as serving would write them, and only answers are trained."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pytest

from fastserve_ray.data.chat import ChatEncoder, conversation, conversations
from fastserve_ray.data.packing import WholePacker, chat_table
from fastserve_ray.data.tokenizer import CHAT_TEMPLATE, train_bpe
from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.errors import DataError, ModelError
from fastserve_ray.serve.calls import GenerateCall
from fastserve_ray.serve.prompts import build_requests
from fastserve_ray.tasks.packed import IGNORED
from fastserve_ray.tasks.table import load_task

TURNS = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "Where is the fox?"},
    {"role": "assistant", "content": "In the wood."},
    {"role": "user", "content": "And the ox?"},
    {"role": "assistant", "content": "In the field.\nIt eats."},
]
TEXT = json.dumps(TURNS)
MARKED = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{% if m['role'] == 'assistant' %}"
    "{% generation %}{{ m['content'] }}<|endoftext|>{% endgeneration %}{% else %}{{ m['content'] }}{% endif %}\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
FORGETFUL = (
    "{% for m in messages %}{{ m['role'] }}: "
    "{{ m['content'] if loop.last or m['role'] == 'user' else '...' }}<|endoftext|>{% endfor %}"
)
ENDLESS = "{% for m in messages %}{{ '<|' + m['role'] + '|>' + m['content'] }}{% endfor %}" + (
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINKING = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n"
    "{% if loop.last and m['role'] == 'assistant' %}<think></think>\n{% endif %}"
    "{{ m['content'] }}<|endoftext|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""As Qwen3's: only the last answer shows that it was thought about."""


def instruction(prompt: str, completion: str) -> str:
    (text,) = conversations(pa.table({"prompt": [prompt], "completion": [completion]}))
    assert text is not None
    return text


FAMILIES = {
    "llama3": (
        "{{- bos_token }}{%- for m in messages %}{{- '<h>' + m['role'] + '</h>\n\n' }}"
        "{{- m['content'] | trim + '<|endoftext|>' }}"
        "{%- endfor %}{%- if add_generation_prompt %}{{- '<h>assistant</h>\n\n' }}{%- endif %}"
    ),
    "gemma": (
        "{{ bos_token }}{% for m in messages %}<turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
        "{{ m['content'] | trim + '<|endoftext|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<turn>model\n{% endif %}"
    ),
    "mistral": (
        "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'assistant' %}{{ ' ' + m['content'] + eos_token }}"
        "{% else %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% endif %}{% endfor %}"
    ),
    "chatml": (
        "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<im>system\nHelp.<|endoftext|>\n"
        "{% endif %}{{ '<im>' + m['role'] + '\n' + m['content'] + '<|endoftext|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<im>assistant\n{% endif %}"
    ),
}
"""The shapes that well-known families' templates have."""


@pytest.fixture
def tokenizer() -> Any:
    return train_bpe([pa.array(["Where is the fox? In the wood. And the ox? In the field. It eats."] * 4)], 400, "chat")


def answers(tokenizer: Any, text: str = TEXT) -> list[str]:
    """What is trained, decoded, a run at a time."""
    chat = ChatEncoder(tokenizer).encode(text)
    found: list[list[int]] = []
    for (_, before), (token, is_answer) in pairwise([(0, False), *zip(chat.ids, chat.is_answer, strict=True)]):
        if is_answer and not before:
            found.append([])
        if is_answer:
            found[-1].append(token)
    return [tokenizer.decode(ids) for ids in found]


@pytest.mark.parametrize(
    ("template", "ending", "thought"),
    [
        (CHAT_TEMPLATE, "<|endoftext|>\n", ""),
        (MARKED, "<|endoftext|>", ""),
        (THINKING, "<|endoftext|>\n", "<think></think>\n"),
    ],
)
def test_only_answers_and_their_ends_are_trained(tokenizer: Any, template: str, ending: str, thought: str) -> None:
    tokenizer.chat_template = template
    found = [text.removeprefix(thought) for text in answers(tokenizer)]
    assert found == [f"In the wood.{ending}", f"In the field.\nIt eats.{ending}"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("end", ["", " ", "\n"])
def test_templates_of_well_known_families(tokenizer: Any, family: str, end: str) -> None:
    """Some trim what is said."""
    tokenizer.chat_template = FAMILIES[family]
    said = [{**turn, "content": turn["content"] + end} for turn in TURNS]
    found = answers(tokenizer, json.dumps(said))
    assert [text.replace("<|endoftext|>", "").strip() for text in found] == ["In the wood.", "In the field.\nIt eats."]
    assert all("<|endoftext|>" in text for text in found)


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, MARKED])
def test_a_prompt_of_serving_is_what_training_saw_before_the_answer(tokenizer: Any, template: str) -> None:
    tokenizer.chat_template = template
    chat = ChatEncoder(tokenizer).encode(TEXT)
    call = GenerateCall("id", messages=tuple(TURNS[:2]), max_tokens=4, sampling=SamplingParams())
    (request,) = build_requests(call, tokenizer, 200)
    assert list(request.prompt_token_ids) == chat.ids[: chat.is_answer.index(True)]


def test_a_conversation_without_an_end_gets_one(tokenizer: Any) -> None:
    tokenizer.chat_template = ENDLESS
    assert answers(tokenizer) == ["In the wood.", "In the field.\nIt eats.<|endoftext|>"]


def test_a_template_that_rewrites_answers_is_refused(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(DataError, match="turn 3 cannot be found") as caught:
        ChatEncoder(tokenizer).encode(TEXT)
    assert caught.value.key == "model.chat_template"


@pytest.mark.parametrize("template", [None, "{% for %}"])
def test_a_missing_or_broken_template_names_the_key(tokenizer: Any, template: str | None) -> None:
    tokenizer.chat_template = template
    with pytest.raises(ModelError) as caught:
        ChatEncoder(tokenizer)
    assert caught.value.key == "model.chat_template"


def test_a_template_that_refuses_shows_the_conversation(tokenizer: Any) -> None:
    tokenizer.chat_template = (
        "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + (CHAT_TEMPLATE)
    )
    with pytest.raises(DataError, match="no system") as caught:
        ChatEncoder(tokenizer).encode(TEXT)
    assert "Be short." in str(caught.value.value)


def test_an_instruction_is_a_conversation_of_two_turns(tokenizer: Any) -> None:
    assert answers(tokenizer, instruction("Where is the fox?", "In the wood.")) == ["In the wood.<|endoftext|>\n"]


@pytest.mark.parametrize(
    "messages", [[], TURNS[:2], [{"role": "assistant"}], [{"role": "assistant", "content": " "}], ["assistant"]]
)
def test_what_is_no_conversation(messages: list[Any]) -> None:
    assert conversation(messages) is None


def test_conversations_are_packed_whole_and_long_ones_keep_their_start(tokenizer: Any) -> None:
    chats = [
        ChatEncoder(tokenizer).encode(text) for text in (TEXT, instruction("fox?", "wood."), instruction("a", "b"))
    ]
    long, *short = chats
    packer, length = WholePacker(len(long.ids) - 3), len(long.ids) - 3
    unanswerable = ChatEncoder(tokenizer).encode(instruction("ox " * 200, "field"))
    rows = [row for chat in [*chats, unanswerable] for row in packer.add(chat)] + list(packer.rest())
    assert (packer.num_cut, packer.num_skipped) == (2, 1)
    assert [[chat.ids for chat in row] for row in rows] == [[long.ids[:length]], [chat.ids for chat in short]]


def test_labels_are_the_answers_of_every_packed_conversation(tokenizer: Any) -> None:
    chats = [ChatEncoder(tokenizer).encode(text) for text in (TEXT, instruction("fox?", "wood."))]
    (row,) = chat_table([chats]).to_pylist()
    assert row["lengths"] == [len(chat.ids) for chat in chats]
    task = load_task("text-generation")
    batch = task.collate([row, {"input_ids": [5, 6]}], 0)
    pairs = [pair for chat in chats for pair in zip(chat.ids, chat.is_answer, strict=True)]
    expected = [token if is_answer else IGNORED for token, is_answer in pairs]
    assert batch["labels"][0].tolist() == expected
    assert batch["labels"][1, :2].tolist() == [IGNORED, 6]
    assert task.count(batch) == sum(sum(chat.is_answer) for chat in chats) + 1
