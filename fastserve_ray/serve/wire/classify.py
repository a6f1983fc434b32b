"""``/v1/classify``: one label for each text, in the manner of OpenAI's embeddings endpoint."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.serve.wire.base import NonEmpty, Usage, WireAnswer, WireRequest

MAX_INPUTS = 1024
"""Texts in one request at most."""


class ClassifyRequest(WireRequest):
    model: NonEmpty
    input: str | Annotated[list[str], Field(min_length=1, max_length=MAX_INPUTS)]
    """One text or several; a text longer than the model reads is cut at the end."""
    user: str | None = None
    """Accepted and without effect."""

    @property
    def texts(self) -> tuple[str, ...]:
        return (self.input,) if isinstance(self.input, str) else tuple(self.input)


class Classification(WireAnswer):
    index: int
    """Of the text in ``input``."""
    label: str
    label_id: int
    probs: dict[str, float]
    """Probability of every label; they add up to 1. With a single label, its score between 0 and 1."""


class ClassifyAnswer(WireAnswer):
    id: str
    object: Literal["list"] = "list"
    created: int
    model: str
    data: list[Classification]
    usage: Usage
