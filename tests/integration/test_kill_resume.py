"""The whole of a tiny run, killed with SIGKILL in every stage: it ends with the artifacts of an uninterrupted one.

The driver is a process with an embedded Ray of its own, as a user starts it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.events.log import EventReader
from fastserve_ray.spec.load import parse_spec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from fastserve_ray.events.event import Event

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(2400)]

SPEC = """
name: tiny
cluster: {num_cpus: 4, num_gpus: 0, object_store_memory_mb: 100, include_dashboard: false}
model:
  config: {model_type: llama, hidden_size: 32, intermediate_size: 64, num_hidden_layers: 2, num_attention_heads: 2,
           num_key_value_heads: 2, max_position_embeddings: 64, tie_word_embeddings: true}
  tokenizer: {kind: bpe, vocab_size: 512}
data:
  train: {kind: python-docs, max_rows: 400}
  validation: {fraction: 0.3}
  max_length: 64
train:
  max_steps: 24
  batch_size: 8
  learning_rate: 1.0e-3
  logging_steps: 2
  parallel: {workers: 2}
  checkpoint: {every_steps: 4}
tune:
  search_alg: grid
  scheduler: none
  num_samples: 1
  max_steps: 4
  max_concurrent_trials: 1
  parameters:
    train.learning_rate: {space: grid_search, values: [0.002, 0.0005]}
compress:
  - {kind: prune, sparsity: 0.2}
  - {kind: quantize, scheme: int8-weight-only}
verify:
  max_drop: {eval_loss: 1.0}
  golden_inputs: 100
  golden_tokens: 24
"""
STAGES = ("data", "tune", "train", "compress", "verify")
SECONDS = 600.0
"""Until a run counts as one that hangs."""


def is_working(event: Event) -> bool:
    """A worker has reported: Ray runs, and the stage is at its work."""
    return event.kind == "stage_progress" and event.source == "worker"


def has_a_checkpoint(event: Event) -> bool:
    return event.kind == "checkpoint_written"


def one_trial_is_over(event: Event) -> bool:
    return event.kind == "trial_finished"


KILL_AT: dict[str, Callable[[Event], bool]] = {
    "data": is_working,
    "tune": one_trial_is_over,
    "train": has_a_checkpoint,
    "compress": is_working,
    "verify": is_working,
}


def start(spec_file: Path, root: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "fastserve_ray.cli.main", "run", str(spec_file), "--set", f"storage={root}"]
    output = (root.parent / f"{root.name}.log").open("ab")
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=output, stderr=output)


def finish(spec_file: Path, root: Path) -> None:
    with start(spec_file, root) as process:
        code = process.wait(timeout=SECONDS)
    assert code == 0, (root.parent / f"{root.name}.log").read_text()[-4000:]


def events_of(root: Path, run_id: str) -> list[Event]:
    return EventReader(str(root), run_id).poll()


def kill_in(stage: str, spec_file: Path, root: Path) -> list[Event]:
    """Start a run and kill it at work in ``stage``; its events."""
    storage = Storage.open(str(root))
    before = set(storage.list_folders("runs"))
    deadline = time.monotonic() + SECONDS
    with start(spec_file, root) as process:
        try:
            while True:
                new = set(storage.list_folders("runs")) - before
                events = [event for run_id in new for event in events_of(root, run_id)]
                if any(event.stage == stage and KILL_AT[stage](event) for event in events):
                    break
                assert process.poll() is None, f"ended before {stage}: {(root.parent / f'{root.name}.log').read_text()}"
                assert time.monotonic() < deadline, [(event.stage, event.kind) for event in events]
                time.sleep(0.02)
        finally:
            process.kill()
    return [event for run_id in new for event in events_of(root, run_id)]


def finished(events: list[Event]) -> list[str | None]:
    return [event.stage for event in events if event.kind == "stage_finished"]


def artifacts(root: Path) -> dict[str, dict[str, str]]:
    """By artifact id, sha256 of the files; reports hold times, which no two runs share."""
    manifests = Registry(Storage.open(str(root))).list()
    for manifest in manifests:
        Registry(Storage.open(str(root))).verify(manifest.id)
    return {
        manifest.id: {
            file.path: file.sha256
            for file in manifest.files
            if manifest.kind != "tuning" and not file.path.endswith(("report.json", "report.md", "verification.json"))
        }
        for manifest in manifests
    }


class Killed(NamedTuple):
    """A run that was killed in data, tune and train, in this order."""

    spec_file: Path
    root: Path
    finished: Counter[str | None]
    """How often each stage was."""

    def copied(self, folder: Path) -> Killed:
        """Another to go on from."""
        shutil.copytree(self.root, folder / "killed")
        shutil.copy(self.spec_file, folder)
        return Killed(folder / self.spec_file.name, folder / "killed", Counter(self.finished))

    def kill_in(self, stage: str) -> None:
        events = kill_in(stage, self.spec_file, self.root)
        assert stage not in finished(events), f"{stage} was over before the kill"
        self.finished.update(finished(events))

    def finish(self) -> list[str | None]:
        """Stages that are finished by the run that goes on."""
        finish(self.spec_file, self.root)
        last = sorted(Storage.open(str(self.root)).list_folders("runs"))[-1]
        return finished(events_of(self.root, last))


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    folder = tmp_path_factory.mktemp("killed")
    (folder / "tiny.yaml").write_text(SPEC)
    killed = Killed(folder / "tiny.yaml", folder / "storage", Counter())
    for stage in STAGES[:3]:
        killed.kill_in(stage)
    return killed


def test_killed_in_every_stage_it_ends_like_an_uninterrupted_run(killed: Killed, tmp_path: Path) -> None:
    with start(killed.spec_file, tmp_path / "whole") as uninterrupted:
        run = killed.copied(tmp_path)
        for stage in STAGES[3:]:
            run.kill_in(stage)
        run.finished.update(run.finish())
        code = uninterrupted.wait(timeout=SECONDS)
    assert code == 0, (tmp_path / "whole.log").read_text()[-4000:]
    assert run.finished == Counter(STAGES), "every stage was finished exactly once"
    assert resumed_steps(run.root), "training went on from a checkpoint"
    assert artifacts(run.root) == artifacts(tmp_path / "whole")
    assert not list((run.root / ".work").iterdir())
    assert Storage.open(str(run.root)).list_files("checkpoints") == []


def test_a_file_with_other_workers_goes_on_where_the_run_was_killed(killed: Killed, tmp_path: Path) -> None:
    """Killed with two workers, started again with one: the search is not made again, and the model is that of a run
    that was never stopped."""
    run = killed.copied(tmp_path)
    assert run.finished["tune"] == 1
    run.spec_file.write_text(SPEC.replace("parallel: {workers: 2}", "parallel: {workers: 1}"))
    assert "tune" not in run.finish()
    assert resumed_steps(run.root), "training went on from a checkpoint"
    assert Storage.open(str(run.root)).list_files("checkpoints") == []
    losses = train_losses(run.root, sorted(Storage.open(str(run.root)).list_folders("runs"))[-1])
    whole = train_alone(run.root)
    assert losses
    assert {step: whole[step] for step in losses} == pytest.approx(losses, abs=1e-5)


def train_losses(root: Path, run_id: str) -> dict[int, float]:
    """Reported losses by step."""
    return {
        int(str(event.fields["step"])): float(str(event.fields["loss"]))
        for event in events_of(root, run_id)
        if event.stage == "train" and "loss" in event.fields
    }


def train_alone(root: Path) -> dict[int, float]:
    """Losses by step of the published model's training, in this process and without a stop."""
    registry = Registry(Storage.open(str(root)))
    manifests = registry.list()
    trained = next(manifest for manifest in manifests if manifest.stage == "train")
    rate = trained.spec["train.learning_rate"]
    spec = parse_spec(SPEC, sets=[f"train.learning_rate={rate}"])
    assert spec.train is not None
    losses: dict[int, float] = {}
    job = TrainJob(spec.model, on_one_worker(spec.train), registry.fetch(trained.parents["data"]))
    train_in_process(job, Hooks(on_step=losses.__setitem__), num_threads=1)
    return losses


def resumed_steps(root: Path) -> list[int]:
    """First steps of the second try at training, when it did not begin at the first one."""
    runs = sorted(Storage.open(str(root)).list_folders("runs"))
    steps = [
        [
            event.fields["step"]
            for event in events_of(root, run_id)
            if event.stage == "train" and "loss" in event.fields and isinstance(event.fields["step"], int)
        ]
        for run_id in runs
    ]
    tries = [numbers for numbers in steps if numbers]
    return [numbers[0] for numbers in tries[1:] if isinstance(numbers[0], int) and numbers[0] > 2]
