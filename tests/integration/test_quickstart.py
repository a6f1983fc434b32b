"""README's first command, with fewer steps: every stage for real, then again with everything there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STAGES = ["data", "tune", "train", "compress", "verify"]
FEWER = ["train.max_steps=30", "tune.num_samples=2", "tune.max_steps=8", "tune.eval_every_steps=4", "serve.port=0"]


def quickstart(storage: Path) -> tuple[dict[str, Any], str]:
    """The run's result, and what it showed."""
    sets = [argument for text in (*FEWER, f"storage={storage}") for argument in ("--set", text)]
    command = [sys.executable, "-m", "fastserve_ray.cli.main", "run", "cluster/quickstart.yaml", "--no-wait", "--json"]
    done = subprocess.run([*command, *sets], cwd=ROOT, capture_output=True, text=True, check=False, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout), done.stderr


@pytest.mark.slow
def test_the_quickstart_serves_and_its_second_run_only_serves(tmp_path: Path) -> None:
    first, shown = quickstart(tmp_path / "runs")
    assert list(first["artifacts"]) == STAGES
    assert first["skipped"] == []
    served = first["served"]
    assert served["answer"]
    assert f"curl {served['url']}/v1/completions" in served["curl"]
    assert "[train]" in shown
    assert "loss" in shown
    drop = first["metrics"]["verify"]["eval_perplexity"] - first["metrics"]["train"]["eval_perplexity"]
    assert drop <= 0.5
    assert first["metrics"]["verify"]["golden_fidelity"] > 0.9
    assert list((tmp_path / "runs" / "tensorboard").rglob("events.out.tfevents.*"))

    second, _ = quickstart(tmp_path / "runs")
    assert second["skipped"] == STAGES
    assert second["artifacts"] == first["artifacts"]
    assert second["served"]["answer"] == served["answer"]
