"""A node dies in training: the run goes on from its last checkpoint on another one, as if nothing had been."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.events.log import EventReader
from fastserve_ray.spec import DataSpec, PythonDocsSource, RunSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob
from tests.training.tiny import model_spec, train_spec, write_dataset

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.events.event import Event

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

START = "import sys; from tests.integration.test_lost_node import main; main(sys.argv[1])"
RUN = "run-node"
STEPS, KILLED_AT = 400, 100
"""Ray's controller has heard of several checkpoints by then, and some seconds of training are left."""


def main(path: str) -> None:
    """A cluster of its own: a head without processors, and two nodes with room for one worker each. One of them is
    killed with all its processes when some checkpoints are there, and a third takes its place."""
    import tempfile
    import time
    from concurrent.futures import ThreadPoolExecutor

    import psutil
    import ray
    from ray.cluster_utils import Cluster

    from fastserve_ray.training.launch import train_on_ray

    arguments: dict[str, Any] = pickle.loads(Path(path).read_bytes())
    sizes = {"include_dashboard": False, "object_store_memory": 100 * 2**20}
    folder = tempfile.mkdtemp(prefix="fsr-", dir="/tmp")  # short: Ray's socket paths have a length limit
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "temp_dir": folder, **sizes})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20) for _ in range(2)]
    ray.init(address=cluster.address, log_to_driver=False)

    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(train_on_ray, **arguments)
        reader = EventReader(arguments["storage_uri"], RUN)
        while not any(is_late_checkpoint(event) for event in reader.poll()):
            assert not future.done(), future.result()
            time.sleep(0.05)
        raylet = psutil.Process(nodes[1].all_processes["raylet"][0].process.pid)
        for process in raylet.children(recursive=True):
            process.kill()
        cluster.remove_node(nodes[1], allow_graceful=False)
        cluster.add_node(num_cpus=1, object_store_memory=100 * 2**20)  # sets a signal handler: in the main thread
        manifest = future.result()
    Path(path).with_suffix(".done").write_bytes(pickle.dumps(manifest))
    ray.shutdown()
    cluster.shutdown()


def is_late_checkpoint(event: Event) -> bool:
    return event.kind == "checkpoint_written" and int(str(event.fields["step"])) >= KILLED_AT


def test_the_model_is_that_of_an_uninterrupted_run(tmp_path: Path) -> None:
    storage = Storage.open(str(tmp_path / "storage"))
    folder = write_dataset(tmp_path / "dataset", "text-generation")
    dataset = Registry(storage).publish(
        folder, kind="dataset", stage="data", digest="d" * 64, parents={}, spec={}, metrics={}, info={}
    )
    train = train_spec(max_steps=STEPS, workers=2, checkpoint={"every_steps": 20}, learning_rate=1e-3)
    data = DataSpec(train=PythonDocsSource(kind="python-docs"))
    spec = RunSpec(name="tiny", storage=storage.uri, model=model_spec("gpt2"), data=data, train=train)
    arguments = {
        "spec": spec,
        "dataset": dataset.id,
        "digest": "e" * 64,
        "parents": {"data": dataset.id},
        "storage_uri": storage.uri,
        "run_id": RUN,
    }
    (tmp_path / "arguments.pickle").write_bytes(pickle.dumps(arguments))
    subprocess.run([sys.executable, "-c", START, str(tmp_path / "arguments.pickle")], check=True, timeout=300)
    manifest: Manifest = pickle.loads((tmp_path / "arguments.done").read_bytes())
    events = EventReader(storage.uri, RUN).poll()
    assert any(str(event.fields.get("message")).startswith("going on from step-") for event in events)
    alone = train_in_process(TrainJob(spec.model, on_one_worker(train), folder), num_threads=1)
    assert manifest.metrics["train_loss"] == pytest.approx(alone.metrics["train_loss"], abs=1e-5)
    assert manifest.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], abs=1e-5)
