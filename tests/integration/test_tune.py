"""Searches on a real Ray: every searcher and scheduler, the files they leave, failures and resumption."""

from __future__ import annotations

import hashlib
import json
import pickle
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.artifacts.manifest import artifact_id
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.errors import PlacementError, TuneError
from fastserve_ray.events.log import EventReader
from fastserve_ray.spec.load import spec_from_dict, with_overrides
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.tune.records import TrialStore
from fastserve_ray.tune.search import search_on_ray
from tests.waiting import wait_for

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.events.event import Event
    from fastserve_ray.spec.run import RunSpec

LEARNING_RATE = {"train.learning_rate": {"space": "loguniform", "lower": 1e-4, "upper": 1e-1}}
CONFIG = {
    "model_type": "llama",
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["red", "green", "blue", "small", "large", "house", "tree", "river", "runs", "stands"]
    lines = [" ".join(words[(i * step) % 10] for step in range(1, 9)) for i in range(200)]
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    path.write_text("\n".join(lines))
    return path


@pytest.fixture(scope="module")
def storage_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("storage"))


@pytest.fixture(scope="module")
def base_spec(corpus: Path, storage_uri: str) -> RunSpec:
    return spec_from_dict(
        {
            "name": "tiny",
            "storage": storage_uri,
            "model": {"config": CONFIG, "tokenizer": {"vocab_size": 300}},
            "data": {"train": {"path": str(corpus)}, "max_length": 16},
            "train": {"batch_size": 8, "max_steps": 8},
            "tune": {
                "num_samples": 3,
                "max_steps": 8,
                "eval_every_steps": 2,
                "max_concurrent_trials": 2,
                "parameters": LEARNING_RATE,
            },
        }
    )


@pytest.fixture(scope="module")
def dataset(base_spec: RunSpec, storage_uri: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("dataset")
    info = prepare_dataset(base_spec, folder)
    manifest = Registry(Storage.open(storage_uri)).publish(
        folder, kind="dataset", stage="data", digest="d" * 64, parents={}, spec={}, metrics={},
        info=info.model_dump(mode="json"),
    )  # fmt: skip
    return manifest.id


VICTIM = """
import pickle, sys, ray
from fastserve_ray.tune.search import search_on_ray
ray.init(address=sys.argv[1], namespace="victim", log_to_driver=False)
search_on_ray(**pickle.load(open(sys.argv[2], "rb")))
"""


def digest_of(run_id: str) -> str:
    return hashlib.sha256(run_id.encode()).hexdigest()


class Search:
    """Runs searches that differ in their ``tune`` keys."""

    def __init__(self, spec: RunSpec, dataset: str, storage_uri: str) -> None:
        self.spec = spec
        self.dataset = dataset
        self.storage = Storage.open(storage_uri)

    def __call__(self, run_id: str, **overrides: object) -> Manifest:
        spec = with_overrides(self.spec, {key.replace("__", "."): value for key, value in overrides.items()})
        return search_on_ray(
            spec,
            dataset=self.dataset,
            digest=digest_of(run_id),
            parents={"data": self.dataset},
            storage_uri=self.storage.uri,
            run_id=run_id,
        )

    def trials(self, manifest: Manifest) -> list[dict[str, Any]]:
        folder = Registry(self.storage).fetch(manifest.id)
        trials: list[dict[str, Any]] = json.loads((folder / "trials.json").read_text())
        return trials

    def events(self, run_id: str) -> list[Event]:
        return EventReader(self.storage.uri, run_id).poll()


@pytest.fixture(scope="module")
def search(ray_cluster: str, base_spec: RunSpec, dataset: str, storage_uri: str) -> Search:
    return Search(base_spec, dataset, storage_uri)


@pytest.fixture(scope="module")
def random_asha(search: Search) -> Manifest:
    return search("random-asha", tune__num_samples=4, tune__max_concurrent_trials=2)


def test_random_search_with_asha_finds_the_best_trial(search: Search, random_asha: Manifest) -> None:
    trials = search.trials(random_asha)
    assert random_asha.kind == "tuning"
    assert random_asha.parents == {"data": search.dataset}
    assert [trial["trial"] for trial in trials] == [f"trial-{number:03d}" for number in range(4)]
    lowest = min(trials, key=lambda trial: float(trial["metrics"]["eval_loss"]))
    assert random_asha.info["best"] == lowest["parameters"]
    assert random_asha.info["metric"] == "eval_loss"
    assert random_asha.info["goal"] == "minimize"
    assert random_asha.metrics["eval_loss"] == lowest["metrics"]["eval_loss"]
    assert {trial["status"] for trial in trials} <= {"finished", "stopped"}
    assert lowest["status"] == "finished"


def test_best_parameters_make_a_spec(search: Search, random_asha: Manifest) -> None:
    best = random_asha.info["best"]
    assert isinstance(best, dict)
    changed = with_overrides(search.spec, best)
    assert changed.train is not None
    assert changed.train.learning_rate == best["train.learning_rate"]


def test_scalars_are_readable_by_tensorboard(search: Search, random_asha: Manifest) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for trial in search.trials(random_asha):
        folder = search.storage.local_path(f"tensorboard/{random_asha.id}/{trial['trial']}")
        board = EventAccumulator(str(folder)).Reload()
        found = [(event.step, event.value) for event in board.Scalars("eval_loss")]
        assert found == [(report["step"], pytest.approx(report["metrics"]["eval_loss"])) for report in trial["reports"]]


def test_events_tell_of_each_trial_and_of_the_best(search: Search, random_asha: Manifest) -> None:
    events = search.events("random-asha")
    finished = [event for event in events if event.kind == "trial_finished"]
    assert {event.fields["trial"] for event in finished} == {f"trial-{number:03d}" for number in range(4)}
    last = [event for event in events if event.kind == "stage_progress"][-1]
    assert (last.fields["step"], last.fields["total"]) == (4, 4)
    assert "best eval_loss" in str(last.fields["message"])


def test_a_published_search_is_not_run_again(search: Search, random_asha: Manifest) -> None:
    num_events = len(search.events("random-asha"))
    assert search("random-asha", tune__num_samples=4, tune__max_concurrent_trials=2) == random_asha
    assert len(search.events("random-asha")) == num_events
    assert not search.storage.exists(f"checkpoints/{random_asha.id}")


def test_grid_tries_every_pair_once(search: Search) -> None:
    parameters = {
        "train.learning_rate": {"space": "grid_search", "values": [0.001, 0.01]},
        "model.config.num_hidden_layers": {"space": "grid_search", "values": [1, 2]},
    }
    manifest = search(
        "grid", tune__search_alg="grid", tune__scheduler="none", tune__num_samples=1, tune__parameters=parameters
    )
    trials = search.trials(manifest)
    pairs = {
        (t["parameters"]["train.learning_rate"], t["parameters"]["model.config.num_hidden_layers"]) for t in trials
    }
    assert pairs == {(0.001, 1), (0.001, 2), (0.01, 1), (0.01, 2)}
    assert len(trials) == 4
    assert all(trial["status"] == "finished" and trial["steps"] == 8 for trial in trials)
    assert all([report["step"] for report in trial["reports"]] == [2, 4, 6, 8] for trial in trials)


def test_optuna_maximizes_accuracy(search: Search) -> None:
    manifest = search("optuna", tune__search_alg="optuna", tune__metric="eval_accuracy", tune__num_samples=4)
    trials = search.trials(manifest)
    assert len({trial["parameters"]["train.learning_rate"] for trial in trials}) == 4
    assert manifest.info["goal"] == "maximize"
    assert manifest.metrics["eval_accuracy"] == max(trial["metrics"]["eval_accuracy"] for trial in trials)


def test_a_trial_that_diverges_is_the_worst_and_the_search_goes_on(search: Search) -> None:
    """By a loss that is no number, which the loop finds; and by an exception out of torch."""
    rates = {"train.learning_rate": {"space": "grid_search", "values": [1e30, 3e38, 0.01]}}
    manifest = search(
        "diverges", tune__search_alg="grid", tune__num_samples=1, tune__parameters=rates, train__weight_decay=1.0
    )
    no_number, overflow, good = search.trials(manifest)
    assert [no_number["status"], overflow["status"], good["status"]] == ["failed", "failed", "finished"]
    assert "became nan" in no_number["error"]
    assert "overflow" in overflow["error"]
    assert manifest.info["best"] == {"train.learning_rate": 0.01} == good["parameters"]
    assert manifest.info["num_failed"] == 2


def test_when_all_trials_fail_the_error_names_the_causes(search: Search) -> None:
    layers = {"model.config.no_such_key": {"space": "grid_search", "values": [1, 2]}}
    with pytest.raises(TuneError, match="all 2 trials failed") as caught:
        search("all-fail", tune__search_alg="grid", tune__num_samples=1, tune__parameters=layers)
    assert "no such key" in str(caught.value)


def test_patience_ends_a_trial(search: Search) -> None:
    rates = {"train.learning_rate": {"space": "grid_search", "values": [1e-12]}}
    manifest = search(
        "patience",
        tune__search_alg="grid",
        tune__scheduler="none",
        tune__num_samples=1,
        tune__patience=2,
        tune__metric="eval_accuracy",
        tune__parameters=rates,
    )
    (trial,) = search.trials(manifest)
    assert trial["status"] == "stopped"
    assert trial["steps"] == 6


@pytest.mark.slow
def test_a_search_that_is_killed_goes_on_with_the_trials_that_are_left(
    search: Search, random_asha: Manifest, ray_cluster: str, tmp_path: Path
) -> None:
    """The parameters of a seeded search come again; trials on record are taken as they are."""
    spec = with_overrides(search.spec, {"tune.scheduler": "none", "tune.max_concurrent_trials": 1})
    arguments = {"spec": spec, "dataset": search.dataset, "storage_uri": search.storage.uri, "run_id": "killed"}
    arguments |= {"digest": digest_of("killed"), "parents": {}}
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    victim = subprocess.Popen([sys.executable, "-c", VICTIM, ray_cluster, str(tmp_path / "arguments")])
    store = TrialStore(search.storage, f"checkpoints/{artifact_id('tune', digest_of('killed'))}")
    try:
        wait_for(lambda: store.load() or victim.poll() is not None, 120, "a trial has ended")
        assert store.load(), "the victim ended by itself"
    finally:
        victim.send_signal(signal.SIGKILL)
        victim.wait()
    kept = {record.trial: record for record in store.load().values()}
    assert 0 < len(kept) < 3
    trials = search.trials(search_on_ray(**arguments))  # type: ignore[arg-type]
    drawn = [trial["parameters"] for trial in search.trials(random_asha)]
    assert [trial["parameters"] for trial in trials] == drawn[:3]
    assert all(trial["steps"] == 8 for trial in trials)
    for trial in trials:
        if trial["trial"] in kept:
            assert trial["seconds"] == kept[trial["trial"]].seconds


def test_a_trial_that_fits_nowhere_is_refused_at_once(search: Search) -> None:
    with pytest.raises(PlacementError, match="no node has the resources"):
        search("too-large", train__resources_per_worker={"CPU": 99})


def test_compression_is_tuned_by_quality_after_it(search: Search) -> None:
    sparsity = {"compress.0.sparsity": {"space": "grid_search", "values": [0.99, 0.1]}}
    manifest = search(
        "compression",
        compress=[{"kind": "prune", "sparsity": 0.5}, {"kind": "quantize"}],
        tune__search_alg="grid",
        tune__num_samples=1,
        tune__parameters=sparsity,
    )
    strong, weak = search.trials(manifest)
    assert len(strong["reports"]) == len(weak["reports"]) == 1
    assert weak["metrics"]["train_loss"] == strong["metrics"]["train_loss"]
    assert weak["metrics"]["eval_loss"] != strong["metrics"]["eval_loss"]
    best = min((strong, weak), key=lambda trial: float(trial["metrics"]["eval_loss"]))
    assert manifest.info["best"] == best["parameters"]
    assert any(event.kind == "warning" for event in search.events("compression"))


@pytest.mark.slow
def test_trials_with_workers_of_their_own(search: Search) -> None:
    manifest = search(
        "workers",
        tune__workers_per_trial=2,
        tune__num_samples=2,
        tune__eval_every_steps=4,
        tune__scheduler="none",
    )
    trials = search.trials(manifest)
    assert [trial["status"] for trial in trials] == ["finished", "finished"]
    assert [[report["step"] for report in trial["reports"]] for trial in trials] == [[4, 8], [4, 8]]
    assert not [name for name in search.storage.list_folders("checkpoints") if name.startswith(manifest.id)]
