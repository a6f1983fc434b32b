"""A run as a job of a Ray that was started with ``ray start --head``, and what a client without its token hears."""

from __future__ import annotations

import re
import signal
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.head import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = """
name: away
storage: "{storage}"
cluster: {{num_cpus: 2}}
model:
  config: {{model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2, n_positions: 32}}
  tokenizer: {{kind: bpe, vocab_size: 300}}
data: {{train: {{path: data/lines.txt}}, max_length: 16}}
train:
  max_steps: 3
  batch_size: 4
  logging_steps: 1
  checkpoint: {{every_steps: 20}}
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory with a file, its data, and things that do not travel."""
    folder = tmp_path_factory.mktemp("work")
    (folder / "data").mkdir()
    (folder / "data" / "lines.txt").write_text("\n".join(f"line {number} of the text" for number in range(200)))
    (folder / "unrelated.bin").write_bytes(b"x" * 1000)
    (folder / "app.yaml").write_text(FILE.format(storage=folder.parent / "storage"))
    return folder


def job_of(text: str) -> str:
    found = re.search(r"raysubmit_\w+", text)
    assert found is not None, text
    return found[0]


def test_a_run_is_submitted_followed_and_published_and_a_second_one_has_nothing_to_do(head: Head, work: Path) -> None:
    outcome = head.fastserve("submit", "app.yaml", "--address", head.url, "--until", "train", folder=work)
    assert outcome.code == 0, outcome.out + outcome.err
    assert "submitted to" in outcome.out
    assert "with 2 files" in outcome.out
    assert "this is a Ray job: it runs in the Ray that started it (cluster.address: local)" in outcome.out
    assert "works since every node runs here" in outcome.err
    stages = [manifest.stage for manifest in Registry(Storage.open(str(work.parent / "storage"))).list()]
    assert sorted(stages) == ["data", "train"]
    flags = ["--set", f"cluster.address={head.url}", "--set", "cluster.num_cpus=null"]
    again = head.fastserve("run", "app.yaml", "--until", "train", *flags, folder=work)
    assert again.code == 0, again.out + again.err
    assert len(Registry(Storage.open(str(work.parent / "storage"))).list()) == 2, "the same inputs, whenever unpacked"


def test_ray_job_submit_runs_it_too(head: Head, work: Path) -> None:
    command = ["ray", "job", "submit", "--address", head.url, "--working-dir", ".", "--"]
    command += ["fastserve", "run", "app.yaml", "--until", "data"]
    outcome = head.run(*command, folder=work, RAY_AUTH_MODE="token")
    assert outcome.code == 0, outcome.out + outcome.err
    assert "this is a Ray job" in outcome.out


def test_a_run_that_is_no_longer_followed_goes_on_until_it_is_stopped(head: Head, work: Path) -> None:
    flags = ["--until", "train", "--set", "train.max_steps=100000"]
    with head.start("submit", "app.yaml", "--address", head.url, *flags, folder=work) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "step" in line and "train" in line:
                break
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the job goes on" in errors
    job = job_of("".join(lines))
    assert f"fastserve job stop {job} --address {head.url}" in errors
    status = head.fastserve("job", "status", job, "--address", head.url, "--json", folder=work)
    assert status.data["status"] == "RUNNING"
    stopped = head.fastserve("job", "stop", job, "--address", head.url, folder=work)
    assert stopped.out == f"job {job}: STOPPED\n", stopped.err
    logs = head.fastserve("job", "logs", job, "--follow", "--address", head.url, folder=work)
    assert logs.code == 130
    assert "".join(lines[1:]) in logs.out
    table = head.fastserve("job", "status", "--address", head.url, folder=work)
    assert job in table.out
    assert "STOPPED" in table.out


def test_the_exit_code_is_that_of_the_job(head: Head, work: Path) -> None:
    (work / "here.yaml").write_text((work / "app.yaml").read_text().replace("name: away", "name: ${env:ONLY_HERE}"))
    outcome = head.fastserve("submit", "here.yaml", "--address", head.url, folder=work, ONLY_HERE="away")
    assert outcome.code == 2
    assert "the file reads ONLY_HERE: the cluster's environment must have them too" in outcome.err
    assert "the environment variable 'ONLY_HERE' is not set" in outcome.out
    assert "FAILED" in outcome.err


def test_what_the_nodes_cannot_hold_is_not_submitted(head: Head, work: Path) -> None:
    before = head.fastserve("job", "status", "--address", head.url, "--json", folder=work).data
    flags = ["--set", "train.parallel.workers=9", "--set", "train.batch_size=9", "--set", "cluster.num_cpus=16"]
    outcome = head.fastserve("submit", "app.yaml", "--address", head.url, *flags, folder=work)
    assert outcome.code == 2
    assert "train asks for 9 x (1 CPU)" in outcome.err
    assert "the nodes have room for 8" in outcome.err
    assert len(head.fastserve("job", "status", "--address", head.url, "--json", folder=work).data) == len(before)


def test_a_client_without_the_token_hears_where_it_comes_from(head: Head, work: Path, tmp_path: Path) -> None:
    without = {"RAY_AUTH_TOKEN_PATH": "", "HOME": str(tmp_path)}
    outcome = head.fastserve("job", "status", "--address", head.url, folder=work, **without)
    assert outcome.code == 1
    assert "this cluster asks for a token, and none was found" in outcome.err
    assert "RAY_AUTH_TOKEN_PATH" in outcome.err
    outcome = head.fastserve("job", "status", "--address", head.url, folder=work, RAY_AUTH_TOKEN="wrong")
    assert "refuses the token" in outcome.err
    assert "got: the one from RAY_AUTH_TOKEN" in outcome.err


def test_a_job_that_is_not_there(head: Head, work: Path) -> None:
    for command in (["status"], ["logs"], ["logs", "--follow"], ["stop"]):
        outcome = head.fastserve("job", command[0], "raysubmit_none", *command[1:], "--address", head.url, folder=work)
        assert outcome.code == 2
        assert "this cluster knows no such job" in outcome.err


def test_the_doctor_looks_at_every_node(head: Head, work: Path) -> None:
    outcome = head.fastserve("doctor", "app.yaml", "--address", head.url, "--json", folder=work)
    checks = {check["name"]: check for check in outcome.data["checks"]}
    assert checks["cluster"]["found"].startswith(f"{head.url} answers with the token of ")
    assert checks["ray of the cluster"]["level"] == checks["python of the cluster"]["level"] == "ok"
    assert "8 CPU" in checks["nodes"]["found"]
    (node,) = [check for name, check in checks.items() if name.startswith("node ")]
    assert "fastserve-ray" in node["found"]
    assert node["found"].endswith("storage can be written")


def test_a_plan_is_held_against_the_nodes(head: Head, work: Path) -> None:
    plan = head.fastserve("plan", "app.yaml", "--address", head.url, "--json", folder=work).data
    (node,) = plan["cluster"]["nodes"]
    assert (node["cpus"], node["gpus"], node["is_head"]) == (8, 0, True)
    assert node["memory_bytes"] > 2**20
    assert plan["cluster"]["lacks"] == []
    assert plan["resources"]["cpus_present"] == 8
    flags = ["--set", "train.resources_per_worker.GPU=1", "--set", "cluster.num_gpus=1"]
    text = head.fastserve("plan", "app.yaml", "--address", "auto", *flags, folder=work, RAY_ADDRESS=head.gcs).out
    assert "train asks for 1 x (1 CPU + 1 GPU): the nodes have room for 0" in text
    assert "8 CPU, 0 GPU" in text
