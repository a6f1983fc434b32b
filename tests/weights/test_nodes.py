"""Weights of one node, read on another: fetched once, and whole again after the loss of their node."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `nodes.main` prints. A process of its own: a cluster beside the one of the other tests."""
    file = tmp_path_factory.mktemp("nodes") / "found.json"
    command = [sys.executable, "-m", "tests.weights.nodes", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    answer: dict[str, Any] = json.loads(file.read_text())
    return answer


def test_each_tensor_comes_to_a_node_once(found: dict[str, Any]) -> None:
    assert found["num_reads"] == 4
    assert found["model_bytes"] <= found["bytes_fetched"] < 1.1 * found["model_bytes"]


def test_the_store_is_whole_after_the_loss_of_its_node(found: dict[str, Any]) -> None:
    assert found["were_on"]
    assert found["read_after_loss"] == found["model_bytes"]
    assert found["are_elsewhere"]
