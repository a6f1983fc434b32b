"""Search finds what embeddings and cross-encoder say when they are asked without a server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from deployments.search.app import read_documents
from fastserve_ray.errors import DataError
from fastserve_ray.serve.client import post
from tests.deployments.conftest import ROOT
from tests.engines.tiny import build_classifier, build_tokenizer
from tests.integration.served import save_embedder

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

    from fastserve_ray.serve.deploy import ServedApp
    from tests.deployments.conftest import Start

CANDIDATES = 6
CUT: Any = {"truncation": True, "max_length": 128}
"""What the small models read."""
DOCUMENTS = ROOT / "search" / "documents.jsonl"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    made = {name: tmp_path_factory.mktemp(name) for name in ("embedder", "reranker")}
    save_embedder(made["embedder"])
    build_classifier("bert", num_labels=1).save_pretrained(made["reranker"])
    build_tokenizer().save_pretrained(made["reranker"])
    return made


@pytest.fixture(scope="module")
def app(start: Start, folders: dict[str, Path]) -> ServedApp:
    env = {"EMBEDDER": str(folders["embedder"]), "RERANKER": str(folders["reranker"]), "DOCUMENTS": str(DOCUMENTS)}
    return start("search", env, [f"serve.application.settings.candidates={CANDIDATES}"])


def nearest(folder: Path, query: str) -> dict[str, float]:
    """Cosines of the candidates, by their ids."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()

    def vector(text: str) -> np.ndarray[Any, Any]:
        with torch.no_grad():
            mean = model(**tokenizer(text, return_tensors="pt", **CUT)).last_hidden_state[0].mean(0)
        unit: np.ndarray[Any, Any] = (mean / mean.norm()).numpy()
        return unit

    asked = vector(query)
    cosines = {document.id: float(asked @ vector(document.text)) for document in read_documents(str(DOCUMENTS))}
    best = sorted(cosines, key=lambda name: -cosines[name])[:CANDIDATES]
    return {name: cosines[name] for name in best}


@pytest.mark.slow
def test_hits_are_those_of_the_models(app: ServedApp, folders: dict[str, Path]) -> None:
    query = "the cat sat on the model and trains"
    found = post(f"{app.url}/search", {"query": query, "top_k": 3})
    assert found["num_documents"] == len(read_documents(str(DOCUMENTS)))
    cosines = nearest(folders["embedder"], query)
    texts = {document.id: document.text for document in read_documents(str(DOCUMENTS))}
    tokenizer = AutoTokenizer.from_pretrained(folders["reranker"])
    reader = AutoModelForSequenceClassification.from_pretrained(folders["reranker"]).eval()
    with torch.no_grad():
        scores = {
            name: float(torch.sigmoid(reader(**tokenizer(query, texts[name], return_tensors="pt", **CUT)).logits))
            for name in cosines
        }
    assert [hit["id"] for hit in found["hits"]] == sorted(scores, key=lambda name: -scores[name])[:3]
    for hit in found["hits"]:
        assert hit["text"] == texts[hit["id"]]
        assert hit["score"] == pytest.approx(scores[hit["id"]], abs=1e-5)
        assert hit["similarity"] == pytest.approx(cosines[hit["id"]], abs=1e-5)


@pytest.mark.slow
def test_the_example_request_is_answered(app: ServedApp) -> None:
    body = json.loads((ROOT / "search" / "request.json").read_text())
    assert len(post(f"{app.url}/search", body)["hits"]) == body["top_k"]


@pytest.mark.slow
def test_rerank_over_http(app: ServedApp) -> None:
    documents = ["the cat", "the dog barked", "köln"]
    body = {"model": "reranker", "query": "the mat", "documents": documents, "top_n": 2}
    answer = httpx.post(f"{app.url}/v1/rerank", json=body).json()
    scores = [result["relevance_score"] for result in answer["results"]]
    assert len(scores) == 2
    assert scores == sorted(scores, reverse=True)
    for result in answer["results"]:
        assert result["document"]["text"] == documents[result["index"]]
    assert answer["usage"]["total_tokens"] > 0
    wrong = httpx.post(f"{app.url}/v1/rerank", json={**body, "model": "embedder"})
    assert wrong.status_code == 400
    assert wrong.json()["error"]["code"] == "wrong_task"


@pytest.mark.parametrize("line", ["no json", '{"id": "a"}', "[1]"])
def test_a_line_that_is_no_document_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "documents.jsonl"
    file.write_text(f'{{"id": "a", "text": "b"}}\n{line}\n')
    with pytest.raises(DataError, match="line 2"):
        read_documents(str(file))


def test_no_documents_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "documents.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no documents"):
        read_documents(str(tmp_path / "documents.jsonl"))
