"""Fixtures of this folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import openai
import pytest

from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.serve import ServeSpec
from tests.integration.head import Head, ray_head
from tests.integration.served import save_generator
from tests.s3_server import s3_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["s3_server"]


@pytest.fixture(scope="module")
def generator_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    save_generator(folder)
    return folder


@pytest.fixture(scope="module")
def app(ray_cluster: str, generator_folder: Path) -> Iterator[ServedApp]:
    """The model of ``generator_folder``, served under the name tiny."""
    app = deploy(generator_folder, "text-generation", "tiny", ServeSpec(port=0))
    yield app
    app.shutdown()


@pytest.fixture(scope="module")
def client(app: ServedApp) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{app.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="session")
def head() -> Iterator[Head]:
    """One Ray with a dashboard and a token, for all tests that reach a cluster from outside."""
    with ray_head() as running:
        yield running
