from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from time import perf_counter

import pytest

from tests.cli.commands import fastserve

QUICKSTART = str(Path(__file__).parents[2] / "cluster" / "quickstart.yaml")
HEAVY = {"torch", "ray", "transformers", "deepspeed", "pyarrow", "numpy", "rich"}


def test_a_legal_file(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "validate", QUICKSTART)
    assert (outcome.code, outcome.out) == (0, f"{QUICKSTART}: ok\n")
    assert fastserve(capsys, "validate", "--json", QUICKSTART).data == {"ok": True, "problems": []}


def test_a_wrong_file_shows_every_problem(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("name: a\nmodel: {base: gpt2}\nserve:\n  prt: 1\n  host: 3\n")
    outcome = fastserve(capsys, "validate", str(path))
    assert outcome.code == 2
    assert f"{path}:4:3: serve.prt: unknown key" in outcome.err
    assert "did you mean 'port'?" in outcome.err
    assert f"{path}:5:3: serve.host: wrong type (got 3); allowed: a string" in outcome.err


def test_problems_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "validate", QUICKSTART, "--json", "--set", "train.batch_siz=3")
    assert outcome.code == 2
    assert outcome.data["ok"] is False
    (problem,) = outcome.data["problems"]
    assert problem["key"] == "train.batch_siz"
    assert problem["nearest"] == "batch_size"
    assert problem["file"] == "--set train.batch_siz=3"


def test_a_chat_template_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "app.yaml"
    path.write_text("""
name: a
model: {base: gpt2, chat_template: chat.jinja}
data: {train: {path: chats.jsonl}, columns: {messages: messages}}
train: {max_steps: 1, batch_size: 1}
""")
    outcome = fastserve(capsys, "validate", str(path), "--json")
    assert outcome.code == 2
    (problem,) = outcome.data["problems"]
    assert (problem["key"], problem["value"]) == ("model.chat_template", "chat.jinja")
    assert "No such file" in problem["message"]
    given = tmp_path / "chat.jinja"
    given.write_text("{{ messages }}")
    assert fastserve(capsys, "validate", str(path), "--set", f"model.chat_template={given}").code == 0


def seconds_of(*command: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return perf_counter() - start


def test_it_answers_in_under_a_second() -> None:
    """The best of three, so that a busy machine does not decide."""
    assert min(seconds_of("-m", "fastserve_ray.cli.main", "validate", QUICKSTART) for _ in range(3)) < 1.0


@pytest.mark.parametrize("command", ["validate", "schema"])
def test_it_imports_nothing_heavy(command: str) -> None:
    arguments = [command] + ([QUICKSTART] if command == "validate" else [])
    code = (
        "import sys, json\nfrom fastserve_ray.cli.main import main\n"
        f"assert main({arguments!r}) == 0\n"
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not set(json.loads(done.stdout.splitlines()[-1])) & HEAVY
