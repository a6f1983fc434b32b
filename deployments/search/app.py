"""``POST /search``: the documents that answer a query. A vector index finds candidates, a cross-encoder reads each of
them beside the query."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from itertools import pairwise
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from fastserve_ray.errors import DataError, ServeError
from fastserve_ray.serve.failures import RequestFailed, unavailable
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.serve.composition import Models

logger = logging.getLogger("ray.serve")

BATCH = 256
"""Documents in one request for embeddings."""


class Query(BaseModel):
    """What is asked."""

    query: Annotated[str, Field(min_length=1, max_length=4000)]
    top_k: Annotated[int, Field(ge=1, le=100)] = 5


class Hit(BaseModel):
    """One document."""

    id: str
    text: str
    score: float
    """Of the cross-encoder, between 0 and 1."""
    similarity: float
    """Cosine of the vectors of query and document."""


class Hits(BaseModel):
    hits: list[Hit]
    """Best first."""
    num_documents: int
    seconds: dict[str, float]
    """Of each part: embed, find, rerank."""


@dataclass(frozen=True)
class Document:
    id: str
    text: str


class Search:
    """Holds all documents and their vectors in memory, in FAISS (Douze et al., arXiv 2401.08281), searched exactly.

    Args:
        documents: a JSONL file of objects with ``id`` and ``text``: a path that the serving node reads, or a URI.
        candidates: how many of the nearest documents the cross-encoder reads.
    """

    def __init__(self, models: Models, *, documents: str, candidates: int = 32) -> None:
        self._models = models
        self._documents = read_documents(documents)
        self._candidates = candidates
        self._index: Any = None

    async def start(self) -> None:
        """Embed every document."""
        started = perf_counter()
        rows = []
        for begin in range(0, len(self._documents), BATCH):
            rows.append(await self._vectors([document.text for document in self._documents[begin : begin + BATCH]]))
            logger.info("search: %d of %d documents are embedded", begin + len(rows[-1]), len(self._documents))
        self._index = make_index(np.concatenate(rows))
        logger.info("search: ready after %.1f s", perf_counter() - started)

    def routes(self) -> APIRouter:
        router = APIRouter(tags=["search"])

        @router.post("/search")
        async def search(body: Annotated[Query, Body()]) -> Hits:
            return await self.search(body.query, body.top_k)

        return router

    async def search(self, query: str, top_k: int) -> Hits:
        """
        Raises:
            RequestFailed: the documents are not embedded yet, or a model failed.
        """
        if self._index is None:
            raise RequestFailed(unavailable("the documents are being embedded; /ready tells when it is done"))
        times = [perf_counter()]
        vector = await self._vectors([query])
        times.append(perf_counter())
        count = min(max(self._candidates, top_k), len(self._documents))
        similarities, places = self._index.search(vector, count)
        found = [self._documents[place] for place in places[0]]
        times.append(perf_counter())
        ranking = await self._models.rerank(
            model="reranker",
            query=query,
            documents=[document.text for document in found],
            top_n=min(top_k, count),
            return_documents=False,
        )
        times.append(perf_counter())
        hits = [
            Hit(
                id=found[result.index].id,
                text=found[result.index].text,
                score=result.relevance_score,
                similarity=float(similarities[0][result.index]),
            )
            for result in ranking.results
        ]
        embed, find, rerank = (end - begin for begin, end in pairwise(times))
        seconds = {"embed": embed, "find": find, "rerank": rerank}
        return Hits(hits=hits, num_documents=len(self._documents), seconds=seconds)

    async def _vectors(self, texts: Sequence[str]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """(len(texts), dimensions), each of length 1."""
        answer = await self._models.embed(model="embedder", input=list(texts), truncate_prompt_tokens=-1)
        vectors = np.asarray([item.embedding for item in answer.data], dtype=np.float32)
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: np.ndarray[Any, np.dtype[np.float32]] = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
        return unit


def read_documents(uri: str) -> list[Document]:
    """
    Raises:
        DataError: a line is no document, or there are none.
        StorageError: the file cannot be read.
    """
    folder, _, name = uri.rpartition("/")
    lines = Storage.open(folder or ".").read_bytes(name).decode().splitlines()
    documents = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            documents.append(Document(str(record["id"]), str(record["text"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                "not a document",
                value=f"{uri}, line {number}",
                allowed='a JSON object with "id" and "text"',
                key="serve.application.settings.documents",
            ) from error
    if not documents:
        raise DataError("there are no documents", value=uri, key="serve.application.settings.documents")
    return documents


def make_index(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> Any:
    """An exact index by inner product over rows of length 1.

    Raises:
        ServeError: FAISS is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise ServeError("the search needs FAISS", hint="pip install 'fastserve-ray[search]'") from error
    index = faiss.IndexFlatIP(vectors.shape[1])
    index.add(vectors)
    return index
