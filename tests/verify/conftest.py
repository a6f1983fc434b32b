"""A trained model a task, and the same with int8 layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.models.compressed import save_compressed
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import QuantizeStep
from tests.compress.trained import Trained, make_trained

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session", params=["text-generation", "text-classification"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("verified"), request.param)


@pytest.fixture(scope="session", params=["int8-dynamic", "int8-weight-only"])
def quantized(trained: Trained, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the compressed model."""
    folder = tmp_path_factory.mktemp("quantized")
    loaded: Any = load_pretrained(trained.model, trained.task)
    quantize_model(loaded.model, QuantizeStep(kind="quantize", scheme=request.param))
    save_compressed(loaded.model, loaded.tokenizer, folder, scheme=request.param)
    return folder
