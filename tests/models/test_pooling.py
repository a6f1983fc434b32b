from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.models.pooling import Pooling, read_pooling
from tests.engines.tiny import build_encoder, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]


@pytest.mark.parametrize("pooling", [Pooling(), Pooling("cls", normalizes=False), Pooling("max", max_length=20)])
def test_what_is_kept_is_read(tmp_path: Path, pooling: Pooling) -> None:
    pooling.save(tmp_path, 64)
    assert read_pooling(tmp_path) == pooling


def test_a_loaded_model_has_its_pooling(tmp_path: Path) -> None:
    build_encoder().save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    assert load_pretrained(tmp_path, "text-embedding").pooling == Pooling()
    Pooling("cls").save(tmp_path, 64)
    assert load_pretrained(tmp_path, "text-embedding").pooling == Pooling("cls")


@pytest.mark.parametrize(
    ("modules", "config", "match"),
    [
        ([*MODULES, {"idx": 2, "name": "2", "path": "2", "type": "x.Dense"}], {}, "Dense"),
        (MODULES, {"pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": True}, "mean and max"),
        (MODULES, {"pooling_mode": "weightedmean"}, "weightedmean"),
    ],
)
def test_what_no_engine_runs_is_refused(tmp_path: Path, modules: Any, config: Any, match: str) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=match):
        read_pooling(tmp_path)
