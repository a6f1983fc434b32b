"""What the tests of this folder give their programs, and how they run them."""

from __future__ import annotations

import json
import os
import pickle
import secrets
import subprocess
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.spec import DataSpec, PythonDocsSource, RunSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.tiny import model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.integration.nodes.machines import Machine

STEPS = 400
PROGRAM_S = 800.0
RAY = {"RAY_AUTH_MODE": "token", "RAY_gcs_rpc_server_reconnect_timeout_s": "300"}
"""The second: how long Ray's processes wait for a head that is gone, before they end; KubeRay sets 600."""


class Training(NamedTuple):
    arguments: dict[str, Any]
    """Of `train_on_ray`."""
    rows: Path
    """The prepared dataset."""


def prepare_training(folder: Path, num_workers: int) -> Training:
    """Enough steps that a node can be lost on the way."""
    storage = Storage.open(str(folder / "storage"))
    rows = write_dataset(folder / "dataset", "text-generation")
    dataset = Registry(storage).publish(
        rows, kind="dataset", stage="data", digest="d" * 64, parents={}, spec={}, metrics={}, info={}
    )
    train = train_spec(max_steps=STEPS, workers=num_workers, checkpoint={"every_steps": 20}, learning_rate=1e-3)
    data = DataSpec(train=PythonDocsSource(kind="python-docs"))
    spec = RunSpec(name="tiny", storage=storage.uri, model=model_spec("gpt2"), data=data, train=train)
    arguments = {
        "spec": spec,
        "dataset": dataset.id,
        "digest": "e" * 64,
        "parents": {"data": dataset.id},
        "storage_uri": storage.uri,
        "run_id": "run-nodes",
    }
    return Training(arguments, rows)


def check_metrics(found: Mapping[str, float], training: Training) -> None:
    """They are those of an uninterrupted run on one worker."""
    spec = training.arguments["spec"]
    alone = train_in_process(TrainJob(spec.model, on_one_worker(spec.train), training.rows), num_threads=1)
    for name in ("train_loss", "eval_loss"):
        assert found[name] == pytest.approx(alone.metrics[name], abs=1e-5)


def run_program(machine: Machine, module: str, work: object, folder: Path) -> dict[str, Any]:
    """What a program of this folder found, on this machine, in a Ray that asks for a token."""
    given, found = folder / "given.pickle", folder / "found.json"
    given.write_bytes(pickle.dumps(work))
    done = subprocess.run(
        machine.command(sys.executable, "-m", f"tests.integration.nodes.{module}", str(given), str(found)),
        env={**os.environ, **RAY, "RAY_AUTH_TOKEN": secrets.token_hex()},
        capture_output=True,
        text=True,
        timeout=PROGRAM_S,
        check=False,
    )
    print(done.stderr[-8000:])
    assert done.returncode == 0
    answer: dict[str, Any] = json.loads(found.read_text())
    return answer
