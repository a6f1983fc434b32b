"""From a model's folder to an engine."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import BatchEngine, GenerateEngine
from fastserve_ray.engines.table import ENGINES, open_engine
from fastserve_ray.errors import EngineError, FastServeError, UnknownNameError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_classifier, build_model, build_tokenizer, generate, greedy

if TYPE_CHECKING:
    from pathlib import Path


def test_every_engine_resolves() -> None:
    for name in ENGINES:
        assert callable(ENGINES.load(name))
    with pytest.raises(UnknownNameError, match="unknown engine"):
        ENGINES.load("torhc")


def test_open_a_generator(tmp_path: Path) -> None:
    model = build_model()
    expected = generate(model, (5, 6, 7))
    model.save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    engine = cast("GenerateEngine", open_engine(tmp_path, "text-generation"))
    assert engine.max_model_len == 128
    (completion,) = generate_all(engine, [greedy("a", (5, 6, 7))])
    assert completion.token_ids == expected


def test_open_a_classifier(tmp_path: Path) -> None:
    build_classifier("bert", num_labels=2).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    threads = torch.get_num_threads()
    try:
        engine = open_engine(str(tmp_path), "text-classification", EngineSpec(num_threads=1))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert isinstance(engine, BatchEngine)
    assert len(engine.predict(["the cat", "the dog"])) == 2


def test_no_model_there(tmp_path: Path) -> None:
    with pytest.raises(FastServeError):
        open_engine(tmp_path / "nothing", "text-generation")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no GPU") as caught:
        open_engine(str(tmp_path), "text-generation", EngineSpec(device="cuda"))
    assert caught.value.key == "serve.engine.device"
