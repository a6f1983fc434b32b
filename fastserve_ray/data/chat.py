"""Conversations to tokens, with the model's own chat template, and which of the tokens are answers.

A conversation travels through the data stage as text: a JSON list of ``{"role", "content"}``. A template that marks the
assistant's text (``{% generation %}``) says itself what is an answer. Otherwise it is found turn by turn: the rendered
conversation must begin with the prompt that serving would make of the turns before, and go on with the answer and what
ends a turn.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fastserve_ray.errors import DataError, ModelError
from fastserve_ray.spec.template import KEY

if TYPE_CHECKING:
    from collections.abc import Sequence

Message = dict[str, str]
ANSWERER = "assistant"
_MARK = "{% generation"
_PROBE = "fastserve-answer"
_SHOWN = 200
_ENDING_TOKENS = 3
"""Among so many last tokens a template's end of turn is looked for; a line break may follow it."""


@dataclass(frozen=True)
class Chat:
    """One conversation."""

    ids: list[int]
    is_answer: list[bool]
    """For each of ``ids`` whether the assistant wrote it; what ends its turn counts as written."""


class ChatEncoder:
    """Encodes conversations with one tokenizer.

    Args:
        tokenizer: a fast ``PreTrainedTokenizerBase`` with a chat template.

    Raises:
        ModelError: it has no template, or one that cannot be used.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "the tokenizer has no chat template, so conversations cannot be written as text",
                value=str(tokenizer.name_or_path),
                allowed="a tokenizer with a chat_template, or a template of your own",
                key=KEY,
                hint="name a Jinja file or text there; a model tuned for chat brings one",
            )
        if not tokenizer.is_fast:
            raise ModelError(
                "the tokenizer does not say which characters a token stands for, so answers cannot be found",
                value=type(tokenizer).__name__,
                allowed="a tokenizer with a tokenizer.json",
                key="model.base",
            )
        self._tokenizer = tokenizer
        self._has_marks = _MARK in str(tokenizer.chat_template).replace("{%-", "{%")
        self._ending = self._end_of_turn()

    def encode(self, text: str) -> Chat:
        """Tokens of a whole conversation.

        Where the last answer does not end in the tokenizer's eos token, one is added: a model must learn to stop.

        Raises:
            DataError: the template refuses it, or the answers cannot be found in it.
        """
        messages = parse(text)
        chat = self._marked(messages) if self._has_marks else self._found(messages)
        eos = self._tokenizer.eos_token_id
        if messages[-1]["role"] != ANSWERER or eos in chat.ids[-_ENDING_TOKENS:]:
            return chat
        return Chat([*chat.ids, eos], [*chat.is_answer, True])

    def _marked(self, messages: Sequence[Message]) -> Chat:
        found = self._render(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
        return Chat(list(found["input_ids"]), [bool(mark) for mark in found["assistant_masks"]])

    def _found(self, messages: Sequence[Message]) -> Chat:
        whole = self._render(messages, tokenize=False)
        spans = [self._span(messages, turn, whole) for turn, one in enumerate(messages) if one["role"] == ANSWERER]
        encoded = self._tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        is_answer = [
            any(start >= first and end <= last and end > start for first, last in spans)
            for start, end in encoded["offset_mapping"]
        ]
        return Chat(list(encoded["input_ids"]), is_answer)

    def _span(self, messages: Sequence[Message], turn: int, whole: str) -> tuple[int, int]:
        """Where in ``whole`` the answer of ``turn`` begins, and where what ends it ends."""
        prompt = self._render(messages[:turn], tokenize=False, add_generation_prompt=True)
        said = messages[turn]["content"]
        for content in (said, said.strip()):  # some templates trim
            at = whole.find(content, len(prompt))
            for ending in (self._ending, self._ending.rstrip()):
                end = at + len(content)
                if whole.startswith(prompt) and at >= 0 and whole.startswith(ending, end):
                    return len(prompt), end + len(ending)
        raise self._not_found(messages, turn)

    def _end_of_turn(self) -> str:
        text = self._render([_message("user", "?"), _message(ANSWERER, _PROBE)], tokenize=False)
        before, found, ending = text.rpartition(_PROBE)
        if not found:
            raise ModelError("the chat template leaves out what the assistant says", value=before[:_SHOWN], key=KEY)
        return str(ending)

    def _render(self, messages: Sequence[Message], **options: Any) -> Any:
        from jinja2 import TemplateError, TemplateSyntaxError

        try:
            return self._tokenizer.apply_chat_template(list(messages), **options)
        except TemplateSyntaxError as error:
            raise ModelError(f"the chat template is no Jinja template ({error})", key=KEY) from error
        except TemplateError as error:
            raise DataError(
                f"the model's chat template refuses a conversation ({error})",
                value=_shown(messages),
                key="data.columns.messages",
                hint="most want user and assistant in turns, after at most one system message",
            ) from error

    def _not_found(self, messages: Sequence[Message], turn: int) -> DataError:
        return DataError(
            f"the answer of turn {turn + 1} cannot be found in what the chat template writes",
            value=_shown(messages),
            allowed="a template that writes earlier turns as it wrote them when they were last",
            key=KEY,
            hint="a template with {% generation %} around the assistant's text says itself what is an answer",
        )


def conversations(table: pa.Table) -> list[str | None]:
    """Each row as text: of one column, lists of messages or JSON of such; of two, a prompt and its completion; a third
    is put below the prompt. None where a row is no conversation with an answer."""
    columns = [column.to_pylist() for column in table.columns]
    if len(columns) == 1:
        return [conversation(value) for value in columns[0]]
    return [_instruction(*row) for row in zip(*columns, strict=True)]


def _instruction(prompt: object, completion: object, extra: object = None) -> str | None:
    asked = f"{prompt}\n\n{extra}" if isinstance(prompt, str) and isinstance(extra, str) and extra.strip() else prompt
    return conversation([{"role": "user", "content": asked}, {"role": ANSWERER, "content": completion}])


def conversation(messages: object) -> str | None:
    """``messages``, a list or JSON text of one, as text; None where that is no conversation with an answer."""
    if isinstance(messages, str):
        try:
            messages = json.loads(messages)
        except ValueError:
            return None
    if not isinstance(messages, list) or not all(isinstance(one, dict) for one in messages):
        return None
    texts = [one.get(part) for one in messages for part in ("role", "content")]
    has_answer = any(one.get("role") == ANSWERER and str(one.get("content")).strip() for one in messages)
    if not has_answer or not all(isinstance(text, str) for text in texts):
        return None
    return json.dumps([_message(one["role"], one["content"]) for one in messages], ensure_ascii=False)


def parse(text: str) -> list[Message]:
    """The messages of a conversation."""
    messages: list[Message] = json.loads(text)
    return messages


def contents(texts: pa.Array) -> pa.Array:
    """What is said in conversations, without roles: text to learn a vocabulary from."""
    said = ["\n".join(message["content"] for message in parse(text)) for text in texts.to_pylist()]
    return pa.array(said, pa.large_string())


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _shown(messages: Sequence[Message]) -> str:
    text = json.dumps(list(messages), ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
