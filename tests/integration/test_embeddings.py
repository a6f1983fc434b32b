"""Embeddings over HTTP, asked by OpenAI's client, litellm and LangChain."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import openai
import pytest

from fastserve_ray.serve.client import post
from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import ServeSpec
from tests.integration.served import save_embedder

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # or it asks the network when it is imported

pytestmark = pytest.mark.slow

TEXTS = ["the cat sat", "köln", "the dog barked at the cat and the mat " * 2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedder")
    save_embedder(folder)
    return folder


@pytest.fixture(scope="module")
def app(ray_cluster: str, folder: Path) -> Iterator[ServedApp]:
    served = deploy(folder, "text-embedding", "vectors", ServeSpec(port=0))
    yield served
    served.shutdown()


@pytest.fixture(scope="module")
def expected(folder: Path) -> np.ndarray[Any, Any]:
    """What the model gives for each text alone: the mean over its tokens, of length 1."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        with torch.no_grad():
            vector = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        rows.append((vector / vector.norm()).numpy())
    stacked: np.ndarray[Any, Any] = np.stack(rows)
    return stacked


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_vectors_are_the_models_own(client: openai.OpenAI, expected: Any, encoding: Any) -> None:
    answer = client.embeddings.create(model="vectors", input=TEXTS, encoding_format=encoding)
    found = [_numbers(item.embedding) for item in answer.data]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0


def _numbers(embedding: Any) -> Any:
    """The client leaves base64 as it is where it was asked for."""
    import base64

    return np.frombuffer(base64.b64decode(embedding), "<f4") if isinstance(embedding, str) else embedding


def test_shorter_vectors_and_tokens(client: openai.OpenAI, expected: Any, folder: Path) -> None:
    from transformers import AutoTokenizer

    (item,) = client.embeddings.create(model="vectors", input=TEXTS[0], dimensions=8).data
    np.testing.assert_allclose(item.embedding, expected[0][:8] / np.linalg.norm(expected[0][:8]), atol=1e-5)
    tokens = AutoTokenizer.from_pretrained(folder)(TEXTS)["input_ids"]
    found = client.embeddings.create(model="vectors", input=tokens)
    np.testing.assert_allclose([item.embedding for item in found.data], expected, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"dimensions": 65}, "dimensions"),
        ({"input": "the cat " * 500}, "input"),
        ({"input": [100_000]}, "input"),
        ({"input": ""}, "input"),
        ({"model": "other"}, "model"),
    ],
)
def test_refusals_name_the_field(client: openai.OpenAI, fields: Any, param: str) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        client.embeddings.create(**{"model": "vectors", "input": TEXTS, **fields})
    assert caught.value.status_code == (404 if param == "model" else 400)
    assert caught.value.param == param


def test_long_texts_are_cut_when_asked(app: ServedApp) -> None:
    body: Any = {"model": "vectors", "input": "the cat " * 500, "truncate_prompt_tokens": -1}
    assert post(f"{app.url}/v1/embeddings", body)["usage"]["prompt_tokens"] == 128
    sample = app.sample()
    assert "of 64 dimensions" in sample.text(post(app.url + sample.path, sample.body))


def test_other_clients(app: ServedApp, expected: Any) -> None:
    import litellm
    from langchain_openai import OpenAIEmbeddings

    address: Any = {"api_key": "none", "base_url": f"{app.url}/v1"}
    chain = OpenAIEmbeddings(model="vectors", check_embedding_ctx_length=False, max_retries=0, **address)
    np.testing.assert_allclose(chain.embed_documents(TEXTS), expected, atol=1e-5)
    answer = litellm.embedding("openai/vectors", TEXTS, api_key="none", api_base=address["base_url"])
    np.testing.assert_allclose([item["embedding"] for item in answer.data], expected, atol=1e-5)
