"""Int8 changes the perplexity of a trained model by less than 1%, in every form that the engine serves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.int8_quality import FORMS, perplexity, sampled_windows, served_model

if TYPE_CHECKING:
    from pathlib import Path


def test_int8_keeps_the_perplexity_of_a_trained_model(shared_folder: Path) -> None:
    folder = shared_folder / "models" / "stories260K"
    windows = sampled_windows(folder, 2048)
    found = {
        name: perplexity(served_model(folder, scheme, has_int8_output=has_int8_output), windows)
        for name, (scheme, has_int8_output) in FORMS.items()
    }
    assert 1 < found["float32"] < 20, "the model is not trained, or reads its own text wrongly"
    assert len(set(found.values())) == len(FORMS), "two forms are the same"
    assert all(abs(value / found["float32"] - 1) < 0.01 for value in found.values())
