"""``/v1/rerank``: documents in the order of how well they answer a query, as in Cohere's and Jina's APIs and vLLM's."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastserve_ray.serve.wire.base import NonEmpty, Usage, WireAnswer, WireRequest
from fastserve_ray.serve.wire.classify import MAX_INPUTS


class RerankRequest(WireRequest):
    """Score documents against a query."""

    model: NonEmpty
    """A cross-encoder: a classifier with one label, which reads query and document together."""
    query: NonEmpty
    documents: Annotated[list[NonEmpty], Field(min_length=1, max_length=MAX_INPUTS)]
    """Where query and document are together longer than the model reads, the longer one is cut at its end."""
    top_n: Annotated[int, Field(ge=1)] | None = None
    """How many of the best to answer; default: all."""
    return_documents: bool = True
    user: str | None = None
    """Accepted and without effect."""

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        return tuple((self.query, document) for document in self.documents)


class RankedDocument(WireAnswer):
    text: str


class RankedResult(WireAnswer):
    index: int
    """Of the document in ``documents``."""
    relevance_score: float
    """Between 0 and 1."""
    document: RankedDocument | None = None


class RerankAnswer(WireAnswer):
    id: str
    model: str
    results: list[RankedResult]
    """Best first."""
    usage: Usage
