from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.plan.words import size_in_words
from fastserve_ray.spec.load import load_spec
from fastserve_ray.storage.filesystem import Storage
from tests.cli.commands import fastserve

QUICKSTART = str(Path(__file__).parents[2] / "cluster" / "quickstart.yaml")


def publish_data(storage: Path) -> None:
    """The quickstart's data artifact, as the data stage would publish it."""
    stage = plan_run(load_spec(QUICKSTART)).stage("data")
    folder = storage.parent / "made"
    folder.mkdir()
    (folder / "x.txt").write_text("x")
    registry = Registry(Storage.open(str(storage)))
    registry.publish(
        folder, kind="dataset", stage="data", digest=stage.digest, parents={}, spec={}, metrics={}, info={}
    )


def test_stages_with_their_state(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    storage = tmp_path / "runs"
    arguments = ("plan", QUICKSTART, "--json", "--set", f"storage={storage}")
    assert {stage["state"] for stage in fastserve(capsys, *arguments).data["stages"]} == {"to do", "starts anew"}
    assert not storage.exists(), "a plan leaves no trace"
    publish_data(storage)
    plan = fastserve(capsys, *arguments).data
    states = {stage["name"]: stage["state"] for stage in plan["stages"]}
    assert states == {
        "data": "published",
        "tune": "to do",
        "train": "to do",
        "compress": "to do",
        "verify": "to do",
        "serve": "starts anew",
    }
    assert plan["stages"][0]["artifact_id"] == f"data-{plan['stages'][0]['digest'][:16]}"
    assert plan["stages"][2]["resources"] == {"bundles": 2, "cpus_each": 1.0, "gpus_each": 0.0}
    assert [item["stage"] for item in plan["memory_bytes_per_worker"]] == ["tune", "train", "serve"]


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "plan", QUICKSTART, "--set", f"storage={tmp_path}", "--set", "cluster.num_cpus=2")
    assert outcome.code == 0
    for word in ("tune", "compress, train, data", "2 x (1 CPU)", "to do", "optimizer", "kv cache", "2 CPU"):
        assert word in outcome.out


def test_too_many_workers_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "train.parallel.workers=32", "--set", "train.resources_per_worker.CPU=64")
    plan = fastserve(capsys, "plan", QUICKSTART, "--json", *flags).data
    assert "train" in plan["resources"]["do_not_fit"]
    assert "would refuse" in fastserve(capsys, "plan", QUICKSTART, *flags).out


def test_a_running_ray_is_asked_later(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "cluster.address=auto")
    plan = fastserve(capsys, "plan", QUICKSTART, "--json", *flags).data
    assert plan["resources"] == {"cpus_present": None, "gpus_present": None, "do_not_fit": []}
    assert "asked of the running Ray" in fastserve(capsys, "plan", QUICKSTART, *flags).out


def test_storage_that_cannot_be_read_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "storage=gopher://nowhere/x")
    plan = fastserve(capsys, "plan", QUICKSTART, "--json", *flags).data
    assert {stage["state"] for stage in plan["stages"]} == {"unknown"}
    assert plan["storage_problem"]
    assert "storage could not be read" in fastserve(capsys, "plan", QUICKSTART, *flags).out


def test_missing_inputs_are_problems(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "data.train={path: /nowhere/x.parquet}")
    outcome = fastserve(capsys, "plan", QUICKSTART, *flags)
    assert outcome.code == 2
    assert "data.train.path: there is no such file (got /nowhere/x.parquet)" in outcome.err


def test_it_imports_neither_torch_nor_ray() -> None:
    code = (
        "import sys, json\nfrom fastserve_ray.cli.main import main\n"
        f"assert main(['plan', {QUICKSTART!r}, '--set', 'storage=.']) == 0\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(json.loads(done.stdout.splitlines()[-1])) & {"torch", "ray", "transformers", "deepspeed"}


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (None, "?"),
        (0, "-"),
        (12, "12 B"),
        (2048, "2 KiB"),
        (1_044_480, "1020 KiB"),
        (3 * 2**29, "1.5 GiB"),
        (5 * 2**40, "5 TiB"),
    ],
)
def test_sizes_in_words(size: int | None, words: str) -> None:
    assert size_in_words(size) == words


def test_training_that_does_not_fit_is_named_with_a_way_out(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "cluster.memory_mb=4000", "--set", "train.batch_size=1024")
    plan = fastserve(capsys, "plan", QUICKSTART, "--json", *flags).data
    (reason, *_) = plan["memory_does_not_fit"]
    assert "needs more memory than it has" in reason
    assert "set train.gradient_accumulation_steps: " in reason
    text = fastserve(capsys, "plan", QUICKSTART, *flags).out
    assert "would refuse" in text


def test_auto_shows_the_micro_batch(capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", "train.micro_batch_size=auto", "--set", "cluster.memory_mb=100000")
    assert fastserve(capsys, "plan", QUICKSTART, "--json", *flags).data["micro_batch_size"] == 16
    assert "micro batch: 16 sequences, 1 in a step" in fastserve(capsys, "plan", QUICKSTART, *flags).out
