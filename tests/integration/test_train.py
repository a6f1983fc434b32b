"""Training on Ray Train: published models, restarts after a kill of a worker and of the driver."""

from __future__ import annotations

import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import TrainingError
from fastserve_ray.events.log import EventReader
from fastserve_ray.spec import DataSpec, PythonDocsSource, RunSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.launch import train_on_ray
from tests.s3_server import BUCKET, uri_of
from tests.training.tiny import model_spec, train_spec, write_dataset
from tests.waiting import wait_for

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest

pytestmark = pytest.mark.slow

NUM_STEPS = 240
LONG_ENOUGH: dict[str, Any] = {
    "max_steps": NUM_STEPS,
    "workers": 2,
    "checkpoint": {"every_steps": 20},
    "warmup_ratio": 0.0,
}
"""A few seconds of steps, so that a kill lands between two checkpoints."""


class Place:
    """A storage with a prepared dataset in it."""

    def __init__(self, root: Path, uri: str | None = None) -> None:
        self.uri = uri or str(root / "storage")
        self.registry = Registry(Storage.open(self.uri))
        self.dataset_folder = write_dataset(root / "dataset", "text-generation")
        self.dataset = self.registry.publish(
            self.dataset_folder, kind="dataset", stage="data", digest="d" * 64, parents={}, spec={}, metrics={}, info={}
        )

    def spec(self, family: str = "gpt2", *, dropout: bool = True, **changes: Any) -> RunSpec:
        """With dropout a run that goes on must draw what it would have drawn."""
        model = model_spec(family, dropout=dropout)
        data = DataSpec(train=PythonDocsSource(kind="python-docs"))
        return RunSpec(name="tiny", storage=self.uri, model=model, data=data, train=train_spec(**changes))

    def train(self, digest: str, **changes: Any) -> Manifest:
        return self.train_spec(self.spec(**changes), digest)

    def train_spec(self, spec: RunSpec, digest: str) -> Manifest:
        return train_on_ray(
            spec,
            dataset=self.dataset.id,
            digest=digest * 64,
            parents={"data": self.dataset.id},
            storage_uri=self.uri,
            run_id=f"run-{digest}",
        )

    def checkpoints(self, digest: str) -> list[str]:
        """Names of the checkpoints that have begun to arrive, in order."""
        names = self.registry.storage.list_folders(f"checkpoints/train-{digest * 16}")
        return [name for name in names if name.startswith("step-")]

    def weights(self, manifest: Manifest) -> dict[str, torch.Tensor]:
        folder = self.registry.fetch(manifest.id)
        weights: dict[str, torch.Tensor] = AutoModelForCausalLM.from_pretrained(folder).state_dict()
        return weights

    def event_kinds(self, digest: str) -> list[str]:
        return [event.kind for event in EventReader(self.uri, f"run-{digest}").poll()]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, ray_cluster: str) -> Place:
    return Place(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def uninterrupted(place: Place) -> Manifest:
    return place.train("a", **LONG_ENOUGH)


def train_workers() -> list[psutil.Process]:
    """Processes of Ray Train workers whose raylet belongs to this session."""
    session = Path(ray.get_runtime_context().get_session_name()).name
    found = []
    for process in psutil.process_iter(["name", "cmdline"]):
        title = " ".join(process.info["cmdline"] or [])
        if "RayTrainWorker" in title and (parent := process.parent()) and session in " ".join(parent.cmdline()):
            found.append(process)
    return found


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(weight, right[name]) for name, weight in left.items())


def test_the_model_is_published_with_what_a_reader_needs(place: Place, uninterrupted: Manifest) -> None:
    assert uninterrupted.kind == "model"
    assert uninterrupted.parents == {"data": place.dataset.id}
    info = uninterrupted.info
    assert (info["task"], info["model_type"], info["strategy"]) == ("text-generation", "gpt2", "ddp")
    folder = place.registry.fetch(uninterrupted.id)
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert model.num_parameters() == info["num_parameters"]
    assert AutoTokenizer.from_pretrained(folder).encode("w0 w1") == [3, 4]
    assert {
        "eval_loss",
        "eval_perplexity",
        "train_loss",
        "seconds",
        "tokens_per_second",
    } <= uninterrupted.metrics.keys()
    assert uninterrupted.metrics["eval_loss"] < 0.5


def test_progress_is_in_the_log_and_checkpoints_are_gone(place: Place, uninterrupted: Manifest) -> None:
    kinds = place.event_kinds("a")
    assert kinds.count("stage_metrics") > 10
    assert "stage_progress" in kinds
    assert not place.registry.storage.exists(f"checkpoints/{uninterrupted.id}")


def test_what_is_published_is_not_trained_again(place: Place, uninterrupted: Manifest) -> None:
    before = place.event_kinds("a")
    assert place.train("a", **LONG_ENOUGH) == uninterrupted
    assert place.event_kinds("a") == before


def test_a_killed_driver_and_then_a_killed_worker_change_nothing(
    place: Place, uninterrupted: Manifest, ray_cluster: str
) -> None:
    kill_driver(place, ray_cluster, "c", place.spec(**LONG_ENOUGH))
    left = place.checkpoints("c")[-1]
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(place.train, "c", **LONG_ENOUGH)
        wait_for(lambda: any(name > left for name in place.checkpoints("c")), 120, "a further checkpoint is there")
        time.sleep(0.3)
        train_workers()[-1].kill()
        manifest = future.result(timeout=200)
    messages = [str(event.fields.get("message")) for event in EventReader(place.uri, "run-c").poll()]
    assert len([message for message in messages if message.startswith("going on from step-")]) == 2
    assert same(place.weights(manifest), place.weights(uninterrupted))


def kill_driver(place: Place, address: str, digest: str, spec: RunSpec) -> None:
    """Another process trains ``spec`` and is killed after its first checkpoint."""
    driver = start_driver(place, address, digest, spec)
    try:
        wait_for(
            lambda: "checkpoint_written" in place.event_kinds(digest) or driver.poll() is not None,
            120,
            "a checkpoint is written",
        )
        driver.send_signal(signal.SIGKILL)
        assert driver.wait() == -signal.SIGKILL
    finally:
        driver.kill()
    wait_for(lambda: not train_workers(), 60, "the workers are gone")
    assert place.registry.find("train", digest * 64) is None


def start_driver(place: Place, address: str, digest: str, spec: RunSpec) -> subprocess.Popen[bytes]:
    code = (
        "import ray, pickle, sys\n"
        f"ray.init(address={address!r}, namespace='other')\n"
        "from fastserve_ray.training.launch import train_on_ray\n"
        "train_on_ray(**pickle.load(open(sys.argv[1], 'rb')))\n"
    )
    arguments = {
        "spec": spec,
        "dataset": place.dataset.id,
        "digest": digest * 64,
        "parents": {"data": place.dataset.id},
        "storage_uri": place.uri,
        "run_id": f"run-{digest}",
    }
    file = Path(place.uri).parent / f"arguments-{digest}.pickle"
    file.write_bytes(pickle.dumps(arguments))
    return subprocess.Popen([sys.executable, "-c", code, str(file)], stderr=subprocess.DEVNULL)


def test_a_run_that_was_stopped_goes_on_with_other_workers(place: Place, ray_cluster: str) -> None:
    """Two workers with ZeRO-2 before, one after: another digest of the stage, and the same learning."""
    settings = {**LONG_ENOUGH, "learning_rate": 1e-3, "dropout": False}
    kill_driver(place, ray_cluster, "1", place.spec(**settings, zero=2))
    alone = place.spec(**{**settings, "workers": 1})
    manifest = place.train_spec(alone, "2")
    messages = [str(event.fields.get("message")) for event in EventReader(place.uri, "run-2").poll()]
    assert any(message.startswith("going on from step-") for message in messages)
    assert alone.train is not None
    whole = train_in_process(TrainJob(alone.model, alone.train, place.dataset_folder), num_threads=1)
    assert manifest.metrics["train_loss"] == pytest.approx(whole.metrics["train_loss"], abs=1e-5)
    assert manifest.metrics["eval_loss"] == pytest.approx(whole.metrics["eval_loss"], abs=1e-5)
    assert not place.registry.storage.list_folders("checkpoints")


def test_zero_trains_as_one_process_does_in_an_object_store(
    ray_cluster: str, tmp_path: Path, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Driver and workers share no folder but the store."""
    monkeypatch.setenv("FASTSERVE_CACHE", str(tmp_path / "cache"))
    place = Place(tmp_path, uri_of(s3_server, f"testing:testing@{BUCKET}/train"))
    spec = place.spec("llama", workers=2, zero=2, max_steps=20, checkpoint={"every_steps": 8, "keep": 1})
    manifest = place.train_spec(spec, "e")
    assert manifest.info["strategy"] == "zero-2"
    assert spec.train is not None
    alone = train_in_process(TrainJob(spec.model, on_one_worker(spec.train), place.dataset_folder), num_threads=1)
    assert manifest.metrics["train_loss"] == pytest.approx(alone.metrics["train_loss"], abs=1e-5)
    assert manifest.metrics["eval_loss"] == pytest.approx(alone.metrics["eval_loss"], abs=1e-5)
    assert "stage_metrics" in place.event_kinds("e")
    assert not place.registry.storage.list_files("checkpoints")


def test_an_error_that_would_come_again_is_not_tried_again(place: Place) -> None:
    with pytest.raises(TrainingError, match="the loss became nan") as caught:
        place.train("f", learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=0.0)
    assert caught.value.key == "train.learning_rate"
    messages = [event.fields.get("message") for event in EventReader(place.uri, "run-f").poll()]
    assert messages.count("loading model and data") == 1
