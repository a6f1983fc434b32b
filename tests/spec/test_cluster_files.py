"""Each file in cluster/ is legal and can be planned."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastserve_ray.plan.memory import estimate_memory
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import load_spec

FOLDER = Path(__file__).parents[2] / "cluster"
FILES = sorted(FOLDER.glob("*.yaml"))


def test_there_are_files() -> None:
    assert {"quickstart.yaml", "sentiment.yaml"} <= {file.name for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_the_file_is_legal_and_plans(file: Path) -> None:
    spec = load_spec(file, env={})
    plan = plan_run(spec, fingerprint=lambda _: {})
    assert plan.stages
    assert spec.name == file.stem
    estimate_memory(spec)


def test_quickstart_has_every_stage_and_between_one_and_three_million_parameters() -> None:
    spec = load_spec(FOLDER / "quickstart.yaml", env={})
    assert plan_run(spec).names == ("data", "tune", "train", "compress", "verify", "serve")
    train = next(item for item in estimate_memory(spec) if item.stage == "train")
    assert train.parameters is not None
    assert 1e6 <= train.parameters / 4 <= 3e6
