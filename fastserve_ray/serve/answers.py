"""From a replica's frames to OpenAI's answers: whole, or chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

from fastserve_ray.serve.failures import RequestFailed, invalid
from fastserve_ray.serve.tool_calls import CallPart, Reader, TextReader
from fastserve_ray.serve.wire.base import Usage, WireAnswer
from fastserve_ray.serve.wire.chat import (
    AnswerMessage,
    CallingMessage,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChunkChoice,
    Delta,
)
from fastserve_ray.serve.wire.classify import Classification, ClassifyAnswer
from fastserve_ray.serve.wire.completions import CompletionAnswer, CompletionChoice
from fastserve_ray.serve.wire.logprobs import CompletionLogprobs, chat_logprobs, completion_logprobs
from fastserve_ray.serve.wire.rerank import RankedDocument, RankedResult, RerankAnswer
from fastserve_ray.serve.wire.tools import AnswerToolCall, FunctionCall, FunctionFragment, ToolCallFragment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastserve_ray.serve.calls import Classified, Frame, Piece
    from fastserve_ray.serve.wire.rerank import RerankRequest


def _now() -> int:
    return int(time.time())


class Answers(Protocol):
    """Builds the answers of one request."""

    def whole(self, frame: Frame) -> WireAnswer:
        """The answer of a request that does not stream."""
        ...

    def chunks(self, frame: Frame) -> Iterator[WireAnswer]:
        """What a frame adds to a stream."""
        ...

    def usage_chunk(self, usage: Usage) -> WireAnswer:
        """The chunk without choices that ends a stream with ``include_usage``."""
        ...


def usage_of(frame: Frame) -> Usage:
    return Usage.of(frame.num_prompt_tokens, frame.num_completion_tokens)


@dataclass
class CompletionAnswers:
    """`Answers` of ``/v1/completions``."""

    id: str
    model: str
    include_usage: bool = False
    """Chunks then carry ``usage: null``, as OpenAI's do."""
    continuous_usage: bool = False
    """Each chunk carries the usage up to its frame."""
    created: int = field(default_factory=_now)
    _told: dict[int, bytes] = field(default_factory=dict)
    """By choice: the bytes of its tokens so far, which tell where the next one begins."""

    def whole(self, frame: Frame) -> CompletionAnswer:
        choices = [
            CompletionChoice(
                index=piece.index, text=piece.text, logprobs=self._logprobs(piece), finish_reason=piece.finish_reason
            )
            for piece in frame.pieces
        ]
        return self._answer(choices, usage_of(frame))

    def chunks(self, frame: Frame) -> Iterator[CompletionAnswer]:
        usage = usage_of(frame) if self.continuous_usage else None
        for piece in frame.pieces:
            if piece.text or piece.logprobs or piece.finish_reason is not None:
                choice = CompletionChoice(
                    index=piece.index,
                    text=piece.text,
                    logprobs=self._logprobs(piece),
                    finish_reason=piece.finish_reason,
                )
                yield self._answer([choice], usage)

    def usage_chunk(self, usage: Usage) -> CompletionAnswer:
        return self._answer([], usage)

    def _logprobs(self, piece: Piece) -> CompletionLogprobs | None:
        if not piece.logprobs:
            return None
        before = self._told.get(piece.index, b"")
        self._told[piece.index] = before + b"".join(place.token.data for place in piece.logprobs)
        return completion_logprobs(piece.logprobs, before)

    def _answer(self, choices: list[CompletionChoice], usage: Usage | None) -> CompletionAnswer:
        answer = CompletionAnswer(
            id=self.id, object="text_completion", created=self.created, model=self.model, choices=choices
        )
        return answer.model_copy(update={"usage": usage}) if usage is not None or self.include_usage else answer


@dataclass
class ChatAnswers:
    """`Answers` of ``/v1/chat/completions``. The first chunk of each choice carries the role, the last one only the
    reason why it ended."""

    id: str
    model: str
    include_usage: bool = False
    continuous_usage: bool = False
    make_reader: Callable[[], Reader] = TextReader
    """What tells calls of tools from text, for each choice."""
    created: int = field(default_factory=_now)
    _streamed: dict[int, _StreamedChoice] = field(default_factory=dict)

    def whole(self, frame: Frame) -> ChatAnswer:
        return ChatAnswer(
            id=self.id,
            created=self.created,
            model=self.model,
            choices=[self._choice(piece) for piece in frame.pieces],
            usage=usage_of(frame),
        )

    def chunks(self, frame: Frame) -> Iterator[ChatChunk]:
        usage = usage_of(frame) if self.continuous_usage else None
        for choice in (choice for piece in frame.pieces for choice in self._chunk_choices(piece)):
            yield self._of_choices([choice], usage)

    def _chunk_choices(self, piece: Piece) -> Iterator[ChunkChoice]:
        index, streamed = piece.index, self._streamed.get(piece.index)
        if streamed is None:
            streamed = self._streamed[index] = _StreamedChoice(self.make_reader())
            role = Delta(role="assistant", content="")
            yield ChunkChoice(index=index, delta=role, logprobs=None, finish_reason=None)
        is_last = piece.finish_reason is not None
        deltas = list(streamed.deltas(piece.text, is_last=is_last))
        if piece.logprobs and not deltas:
            deltas = [Delta(content="")]
        for at, delta in enumerate(deltas):
            told = chat_logprobs(piece.logprobs) if piece.logprobs and not at else None
            yield ChunkChoice(index=index, delta=delta, logprobs=told, finish_reason=None)
        if is_last:
            reason = streamed.finish_reason(piece.finish_reason)
            yield ChunkChoice(index=index, delta=Delta(), logprobs=None, finish_reason=reason)

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return self._of_choices([], usage)

    def _choice(self, piece: Piece) -> ChatChoice:
        reader = self.make_reader()
        events = [*reader.push(piece.text), *reader.finish()]
        text = "".join(event for event in events if isinstance(event, str))
        calls = _joined([event for event in events if isinstance(event, CallPart)])
        message = CallingMessage(content=text or None, tool_calls=calls) if calls else AnswerMessage(content=text)
        return ChatChoice(
            index=piece.index,
            message=message,
            logprobs=chat_logprobs(piece.logprobs) if piece.logprobs else None,
            finish_reason=_finish_reason(piece.finish_reason, has_calls=bool(calls)),
        )

    def _of_choices(self, choices: list[ChunkChoice], usage: Usage | None) -> ChatChunk:
        chunk = ChatChunk(
            id=self.id, object="chat.completion.chunk", created=self.created, model=self.model, choices=choices
        )
        return chunk.model_copy(update={"usage": usage}) if usage is not None or self.include_usage else chunk


class _StreamedChoice:
    """What of a choice has been sent."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._has_calls = False

    def deltas(self, text: str, *, is_last: bool) -> Iterator[Delta]:
        events = [*self._reader.push(text), *(self._reader.finish() if is_last else ())]
        for event in events:
            if isinstance(event, str):
                yield Delta(content=event)
            else:
                self._has_calls = True
                yield Delta(tool_calls=[_fragment(event)])

    def finish_reason(self, reason: str | None) -> str | None:
        return _finish_reason(reason, has_calls=self._has_calls)


def _fragment(part: CallPart) -> ToolCallFragment:
    if part.name is None:
        return ToolCallFragment(index=part.index, function=FunctionFragment(arguments=part.arguments))
    function = FunctionFragment(name=part.name, arguments=part.arguments)
    return ToolCallFragment(index=part.index, id=_call_id(), type="function", function=function)


def _joined(parts: Sequence[CallPart]) -> list[AnswerToolCall]:
    names = {part.index: part.name for part in parts if part.name is not None}
    texts = {index: "".join(part.arguments for part in parts if part.index == index) for index in names}
    return [
        AnswerToolCall(id=_call_id(), function=FunctionCall(name=name, arguments=texts[index]))
        for index, name in names.items()
    ]


def _call_id() -> str:
    return f"call_{uuid4().hex[:24]}"


def _finish_reason(reason: str | None, *, has_calls: bool) -> str | None:
    return "tool_calls" if has_calls and reason == "stop" else reason


def classify_answer(identity: str, model: str, result: Classified) -> ClassifyAnswer:
    data = [
        Classification(
            index=index,
            label=prediction.label,
            label_id=prediction.label_id,
            probs=dict(zip(result.labels, prediction.scores, strict=True)),
        )
        for index, prediction in enumerate(result.predictions)
    ]
    return ClassifyAnswer(id=identity, created=_now(), model=model, data=data, usage=Usage.of(result.num_tokens))


def rerank_answer(identity: str, model: str, request: RerankRequest, result: Classified) -> RerankAnswer:
    """
    Raises:
        RequestFailed: the model is no cross-encoder.
    """
    if len(result.labels) != 1:
        message = f"{model!r} has {len(result.labels)} labels; a model that ranks has one, and reads pairs of texts"
        raise RequestFailed(invalid(message, param="model", code="wrong_task"))
    scores = [prediction.scores[0] for prediction in result.predictions]
    order = sorted(range(len(scores)), key=lambda index: -scores[index])[: request.top_n]
    results = [
        RankedResult(
            index=index,
            relevance_score=scores[index],
            document=RankedDocument(text=request.documents[index]) if request.return_documents else None,
        )
        for index in order
    ]
    return RerankAnswer(id=identity, model=model, results=results, usage=Usage.of(result.num_tokens))
