"""``fastserve run``: what it refuses before anything starts, and with which exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.cli.main import main

if TYPE_CHECKING:
    from pathlib import Path

FILE = """
name: tiny
storage: {storage}
cluster: {{num_gpus: 0}}
model:
  config: {{model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}}
data:
  train: {{kind: python-docs}}
train:
  batch_size: 4096
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> str:
    path = tmp_path / "app.yaml"
    path.write_text(FILE.format(storage=tmp_path / "root"))
    return str(path)


def test_a_wrong_file_ends_with_2(spec_file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", spec_file, "--set", "train.learning_rat=1"]) == 2
    assert "learning_rate" in capsys.readouterr().err
    assert not (tmp_path / "root").exists()


def test_what_does_not_fit_ends_with_2(spec_file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", spec_file, "--set", "train.parallel.workers=4096"]) == 2
    assert "more than the cluster has" in capsys.readouterr().err
    assert not (tmp_path / "root" / "runs").exists()


def test_an_unknown_last_stage_ends_with_2(spec_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", spec_file, "--until", "tranings"]) == 2
    assert "data, train, verify" in capsys.readouterr().err


def test_storage_that_cannot_be_written_ends_with_1(
    spec_file: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "taken").write_text("a file")
    assert main(["run", spec_file, "--set", f"storage={tmp_path / 'taken'}"]) == 1
    assert "change: storage" in capsys.readouterr().err
