"""Golden inputs: the engine against plain transformers, and the model against its parent."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.engines.protocol import BatchEngine
from fastserve_ray.engines.table import open_engine
from fastserve_ray.spec import EngineSpec
from fastserve_ray.verify import golden as golden_module
from fastserve_ray.verify.golden import Golden, replay
from tests.verify.damage import damaged

if TYPE_CHECKING:
    from pathlib import Path

    from tests.compress.trained import Trained


def run(
    trained: Trained, folder: Path, parent: Path | None, *, num_tokens: int = 6, num_shards: int = 1, **engine: Any
) -> Golden:
    rows = list(PreparedDataset.open(trained.dataset).validation)[::6]
    spec = EngineSpec(max_num_seqs=4, **engine)
    return replay(
        folder, parent, task=trained.task, rows=rows, num_tokens=num_tokens, engine_spec=spec, num_shards=num_shards
    )


def test_an_uncompressed_model_is_its_own_parent(trained: Trained) -> None:
    golden = run(trained, trained.model, None)
    assert golden.is_faithful
    assert golden.agreement == 1.0
    assert golden.num_inputs == 11
    assert golden.num_equal == golden.num_compared == (66 if trained.task == "text-generation" else 11)
    assert golden.tolerance <= 1e-3


def test_a_quantized_model_is_what_its_engine_computes(trained: Trained, quantized: Path) -> None:
    golden = run(trained, quantized, trained.model)
    assert golden.is_faithful
    assert golden.num_equal >= 0.9 * golden.num_compared
    assert golden.agreement > 0.8  # learned answers survive int8


def test_a_damaged_model_does_not_agree(trained: Trained, tmp_path: Path) -> None:
    golden = run(trained, damaged(trained.model, tmp_path / "damaged"), trained.model)
    assert golden.is_faithful  # the engine computes the damaged model rightly
    assert golden.agreement < 0.75


def test_an_engine_over_other_weights_is_not_faithful(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that answers with another model than plain transformers: what a bug in it would look like."""
    other = damaged(trained.model, tmp_path / "damaged")
    monkeypatch.setattr(golden_module, "open_engine", lambda folder, *rest: open_engine(other, *rest))
    golden = run(trained, trained.model, None)
    assert not golden.is_faithful
    assert golden.num_equal < golden.num_compared


@pytest.mark.parametrize("limit", [9, 12])
def test_inputs_fit_an_engine_with_short_sequences(trained: Trained, limit: int) -> None:
    """Prompts, answers and texts are cut for plain transformers where the engine cuts them."""
    golden = run(trained, trained.model, None, num_tokens=30, max_model_len=limit)
    assert golden.is_faithful
    assert golden.num_equal == golden.num_compared > 0


def test_the_engine_is_asked_as_one_batch(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests that run together are the point: alone they could not disturb each other."""
    sizes: list[int] = []

    class Counting:
        def __init__(self, engine: Any) -> None:
            self._engine = engine

        def __getattr__(self, name: str) -> Any:
            return getattr(self._engine, name)

        def step(self) -> Any:
            sizes.append(self._engine.stats().num_running)
            return self._engine.step()

        def predict(self, texts: list[str]) -> Any:
            sizes.append(len(texts))
            return self._engine.predict(texts)

    monkeypatch.setattr(golden_module, "open_engine", lambda *args: Counting(open_engine(*args)))
    run(trained, trained.model, None)
    assert max(sizes) >= 4


@pytest.mark.slow
def test_a_sharded_engine_is_replayed_as_such(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine of one process has nothing to do with it."""
    if trained.task != "text-generation":
        pytest.skip("has no shards")
    monkeypatch.setattr(golden_module, "open_engine", None)
    golden = run(trained, trained.model, None, num_shards=2)
    assert golden.is_faithful
    assert golden.num_equal == golden.num_compared > 0


def test_faithful_means_within_the_tolerance() -> None:
    golden = Golden(1, 1, 1, 0, largest_gap=0.01, tolerance=0.02, agreement=1.0)
    assert golden.is_faithful
    assert not dataclasses.replace(golden, largest_gap=0.03).is_faithful
    assert not dataclasses.replace(golden, largest_gap=float("inf")).is_faithful
    assert not dataclasses.replace(golden, largest_gap=float("nan")).is_faithful


def test_the_engine_of_a_classifier_is_a_batch_engine(trained: Trained) -> None:
    assert isinstance(open_engine(trained.model, trained.task), BatchEngine) == (trained.task == "text-classification")
