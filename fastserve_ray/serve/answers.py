"""From a replica's frames to OpenAI's answers: whole, or chunk by chunk."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from fastserve_ray.serve.wire.base import Usage, WireAnswer
from fastserve_ray.serve.wire.chat import AnswerMessage, ChatAnswer, ChatChoice, ChatChunk, ChunkChoice, Delta
from fastserve_ray.serve.wire.classify import Classification, ClassifyAnswer
from fastserve_ray.serve.wire.completions import CompletionAnswer, CompletionChoice
from fastserve_ray.serve.wire.logprobs import CompletionLogprobs, chat_logprobs, completion_logprobs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.serve.calls import Classified, Frame, Piece, PlaceLogprobs


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
        for piece in frame.pieces:
            if piece.text or piece.logprobs or piece.finish_reason is not None:
                choice = CompletionChoice(
                    index=piece.index,
                    text=piece.text,
                    logprobs=self._logprobs(piece),
                    finish_reason=piece.finish_reason,
                )
                yield self._answer([choice], None)

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
    created: int = field(default_factory=_now)
    _begun: set[int] = field(default_factory=set)

    def whole(self, frame: Frame) -> ChatAnswer:
        choices = [
            ChatChoice(
                index=piece.index,
                message=AnswerMessage(content=piece.text),
                logprobs=chat_logprobs(piece.logprobs) if piece.logprobs else None,
                finish_reason=piece.finish_reason,
            )
            for piece in frame.pieces
        ]
        return ChatAnswer(id=self.id, created=self.created, model=self.model, choices=choices, usage=usage_of(frame))

    def chunks(self, frame: Frame) -> Iterator[ChatChunk]:
        for piece in frame.pieces:
            if piece.index not in self._begun:
                self._begun.add(piece.index)
                yield self._chunk(piece.index, Delta(role="assistant", content=""))
            if piece.text or piece.logprobs:
                yield self._chunk(piece.index, Delta(content=piece.text), logprobs=piece.logprobs)
            if piece.finish_reason is not None:
                yield self._chunk(piece.index, Delta(), finish_reason=piece.finish_reason)

    def usage_chunk(self, usage: Usage) -> ChatChunk:
        return self._of_choices([], usage)

    def _chunk(
        self,
        index: int,
        delta: Delta,
        *,
        logprobs: Sequence[PlaceLogprobs] = (),
        finish_reason: str | None = None,
    ) -> ChatChunk:
        told = chat_logprobs(logprobs) if logprobs else None
        choice = ChunkChoice(index=index, delta=delta, logprobs=told, finish_reason=finish_reason)
        return self._of_choices([choice], None)

    def _of_choices(self, choices: list[ChunkChoice], usage: Usage | None) -> ChatChunk:
        chunk = ChatChunk(
            id=self.id, object="chat.completion.chunk", created=self.created, model=self.model, choices=choices
        )
        return chunk.model_copy(update={"usage": usage}) if usage is not None or self.include_usage else chunk


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
