"""What a job takes along, and what it is refused for."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from fastserve_ray.errors import SpecError, UsageError
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.remote import travel
from fastserve_ray.remote.travel import TIMES, pack_list, restore_times, served_paths, unset_variables
from fastserve_ray.spec.load import load_spec

FILE = """
name: away
storage: "{storage}"
model: {{config: {{model_type: gpt2, n_embd: 16, n_layer: 1, n_head: 2}}, chat_template: chat.jinja}}
data: {{train: {{path: "{data}"}}, validation: {{path: data/dev.jsonl}}}}
train: {{max_steps: 1}}
serve: {{application: {{kind: "mine.routes:Desk"}}, auth: {{keys_file: keys.yaml}}}}
"""
FILES = ("app.yaml", "chat.jinja", "data/a.jsonl", "data/b.jsonl", "data/dev.jsonl", "keys.yaml", "mine/routes.py")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "work"
    for name in (*FILES, "runs/large.bin", ".env"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} {{}}")
    monkeypatch.chdir(folder)
    return folder


def write(here: Path, data: str = "data/[ab].jsonl", storage: str = "s3://bucket/runs") -> Path:
    (here / "app.yaml").write_text(FILE.format(data=data, storage=storage))
    return here / "app.yaml"


def test_the_file_and_what_it_names_travel_and_nothing_else(here: Path) -> None:
    file = write(here)
    luggage = pack_list(file, load_spec(file), sees_files=False)
    assert [str(path) for path in luggage.files] == sorted(FILES)
    assert luggage.sets == ()


def test_an_absolute_path_below_becomes_a_relative_one(here: Path) -> None:
    file = write(here, data=str(here / "data" / "[ab].jsonl"))
    luggage = pack_list(file, load_spec(file), sees_files=False)
    assert luggage.sets == ('data.train.path="data/[ab].jsonl"',)
    assert Path("data/a.jsonl") in luggage.files


def test_what_the_cluster_cannot_see_is_refused_all_at_once(here: Path, tmp_path: Path) -> None:
    (tmp_path / "outside.jsonl").write_text("{}")
    file = write(here, data="../outside.jsonl", storage="./runs")
    spec = load_spec(file)
    with pytest.raises(SpecError) as caught:
        pack_list(file, spec, sees_files=False)
    assert [problem.key for problem in caught.value.problems] == ["data.train.path", "storage"]
    assert "--shared-paths" in str(caught.value)
    luggage = pack_list(file, spec, sees_files=True)
    assert f"data.train.path={json.dumps(str(tmp_path / 'outside.jsonl'))}" in [
        text.replace("work/../", "") for text in luggage.sets
    ]
    assert f"storage={json.dumps(str(here / 'runs'))}" in luggage.sets


def test_a_file_outside_the_working_directory_is_refused(here: Path, tmp_path: Path) -> None:
    file = write(here)
    (tmp_path / "app.yaml").write_text(file.read_text())
    with pytest.raises(UsageError, match="must lie in the working directory"):
        pack_list(tmp_path / "app.yaml", load_spec(file), sees_files=False)


def test_the_working_dir_of_the_file_travels_whole(here: Path) -> None:
    file = write(here)
    spec = load_spec(file, ["cluster.runtime_env.working_dir=runs"])
    assert Path("runs/large.bin") in pack_list(file, spec, sees_files=False).files
    with pytest.raises(UsageError, match="folder is the working directory"):
        pack_list(file, load_spec(file, ["cluster.runtime_env.working_dir=s3://bucket/a.zip"]), sees_files=False)


def test_too_much_is_refused(here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(travel, "MAX_BYTES", 100)
    file = write(here)
    with pytest.raises(UsageError, match="too large to travel"):
        pack_list(file, load_spec(file), sees_files=False).pack(tmp_path)


def test_unpacked_files_have_their_times_so_that_finished_stages_are_known(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(here)
    spec = load_spec(file)
    before = plan_run(spec).stage("data").digest
    away = tmp_path / "away"
    away.mkdir()
    pack_list(file, spec, sees_files=False).pack(away)
    for path in away.rglob("*.*"):
        os.utime(path, ns=(1, 1))  # as unzipping loses them
    monkeypatch.chdir(away)
    assert plan_run(spec).stage("data").digest != before
    restore_times(away)
    assert plan_run(spec).stage("data").digest == before
    (away / TIMES).unlink()
    restore_times(away)


def test_variables_without_a_default_are_named() -> None:
    text = "a: ${env:ONE}\nb: ${env:TWO:-2}\nc: ${env:THREE}\nd: ${env:ONE}\n"
    assert unset_variables(text, ()) == ["ONE", "THREE"]
    assert unset_variables(text, ["ONE"]) == ["THREE"]


def test_what_a_served_application_reads_is_absolute_or_refused(here: Path) -> None:
    file = write(here, storage="./runs")
    spec = load_spec(file)
    with pytest.raises(SpecError) as caught:
        served_paths(spec, "./mine", sees_files=False)
    assert [problem.key for problem in caught.value.problems] == ["serve.auth.keys_file", "storage", "model"]
    paths, model = served_paths(spec, "./mine", sees_files=True)
    assert paths == {"serve.auth.keys_file": str(here / "keys.yaml"), "storage": str(here / "runs")}
    assert model == str(here / "mine")
    assert served_paths(load_spec(write(here)), "artifact:train-1", sees_files=True)[1] == "artifact:train-1"
