"""``POST /customer_service``: what a customer wants, and how they feel, decides who answers and with which words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.serve.composition import Models
    from fastserve_ray.serve.wire.classify import ClassifyAnswer


class CustomerMessage(BaseModel):
    """What a customer writes."""

    message: Annotated[str, Field(min_length=1, max_length=8000)]


class Judgement(BaseModel):
    """A classifier's word on the message."""

    label: str
    probability: float


class Reply(BaseModel):
    """What the desk does with it."""

    intent: Judgement
    sentiment: Judgement
    handed_over: bool
    """Whether a person takes over; ``answer`` then says so."""
    answer: str


class CustomerService:
    """Asks the models ``intent`` and ``sentiment`` at the same time, and the generator ``assistant`` unless a person
    takes over.

    Args:
        instructions: by intent, what the assistant is told; "default" for all others.
        handover_sentiment: the label of messages that a person answers.
        handover_probability: from which probability on.
        handover_answer: what the customer is told then.
        max_tokens: of an answer.
    """

    def __init__(
        self,
        models: Models,
        *,
        instructions: Mapping[str, str],
        handover_sentiment: str,
        handover_probability: float = 0.9,
        handover_answer: str = "I am passing you on to a colleague, who will write to you shortly.",
        max_tokens: int = 256,
    ) -> None:
        if "default" not in instructions:
            raise ValueError("settings.instructions: there is no entry 'default', for intents that are not named")
        self._models = models
        self._instructions = dict(instructions)
        self._handover = handover_sentiment, handover_probability, handover_answer
        self._max_tokens = max_tokens

    async def start(self) -> None:
        """Needs nothing."""

    def routes(self) -> APIRouter:
        router = APIRouter(tags=["customer service"])

        @router.post("/customer_service")
        async def reply(body: Annotated[CustomerMessage, Body()]) -> Reply:
            return await self.reply(body.message)

        return router

    async def reply(self, message: str) -> Reply:
        intent, sentiment = map(
            _judgement,
            await asyncio.gather(
                self._models.classify(model="intent", input=message),
                self._models.classify(model="sentiment", input=message),
            ),
        )
        label, probability, answer = self._handover
        is_handed_over = sentiment.label == label and sentiment.probability >= probability
        if not is_handed_over:
            answer = await self._answer(message, intent)
        return Reply(intent=intent, sentiment=sentiment, handed_over=is_handed_over, answer=answer)

    async def _answer(self, message: str, intent: Judgement) -> str:
        told = self._instructions.get(intent.label, self._instructions["default"])
        answer = await self._models.chat(
            model="assistant",
            messages=[{"role": "system", "content": told}, {"role": "user", "content": message}],
            max_tokens=self._max_tokens,
            temperature=0,
        )
        return str(answer.choices[0].message.content)


def _judgement(answer: ClassifyAnswer) -> Judgement:
    first = answer.data[0]
    return Judgement(label=first.label, probability=first.probs[first.label])
