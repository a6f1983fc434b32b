"""The commands of docs/kubernetes.md: what is rendered there, and every chart that is installed there."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.cli.commands import fastserve
from tests.helm.engine import CHART, ROOT, need_engine, render
from tests.helm.values import Values, at, merged

if TYPE_CHECKING:
    from pathlib import Path

PAGE = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
COMMANDS = [
    re.sub(r"\\\n\s*", "", line)
    for block in re.findall(r"^```bash\n(.+?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^(?:[^\n]*\\\n)*[^\n]*$", block, re.MULTILINE)
]


def of(program: str) -> list[list[str]]:
    return [shlex.split(line) for line in COMMANDS if line.startswith(program)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """Where the page's reader stands, after the file's values and the app were written."""
    for name in ("cluster", "helm"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    (command,) = of("fastserve render")
    done = fastserve(capsys, *command[1:])
    assert done.code == 0, done.err
    ((_, script, source, _, target),) = of("sed")
    _, old, new, _ = script.split("|")
    app = (tmp_path / source).read_text()
    assert old.removeprefix("^") in app
    (tmp_path / target).write_text(app.replace(old.removeprefix("^"), new))
    return tmp_path


def test_every_chart_that_the_page_installs_is_what_it_says(folder: Path) -> None:
    need_engine()
    installed = []
    for command in of("helm upgrade"):
        assert command[:5] == ["helm", "upgrade", "--install", "quickstart", "helm/fastserve"]
        rendered = render(_values(folder, command[5:]), release=command[3])
        assert rendered.problems == []
        installed.append([kind for kind in rendered.kinds() if kind.startswith("Ray")])
    assert installed == [["RayJob"], ["RayService"], ["RayService"], ["RayJob"]]


def test_an_upgrade_changes_the_image_and_no_more(folder: Path) -> None:
    need_engine()
    before, after = (_spec(folder, command) for command in of("helm upgrade")[1:3])
    assert before != after
    text = yaml.safe_dump(after).replace("fastserve-ray:0.1.1", "fastserve-ray:0.1.0")
    assert text == yaml.safe_dump(before)


def test_the_page_names_values_that_there_are() -> None:
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    named = {
        name for name in re.findall(r"`([a-z]\w*(?:\.\w+)*)", PAGE) if name.split(".")[0] in defaults and "." in name
    }
    assert len(named) > 12
    for name in named:
        here: Any = defaults
        for key in name.split("."):
            assert key in here, name
            here = here[key]


def _spec(folder: Path, command: list[str]) -> dict[str, Any]:
    spec: dict[str, Any] = render(_values(folder, command[5:]), release=command[3]).of("RayService")["spec"]
    return spec


def _values(folder: Path, flags: list[str]) -> Values:
    """What Helm makes of a command's flags."""
    values: Values = {}
    for flag, given in zip(flags[::2], flags[1::2], strict=True):
        if flag == "-f":
            values = merged(values, yaml.safe_load((folder / given).read_text()))
        elif flag in {"--set", "--set-file"}:
            key, text = given.split("=", 1)
            is_file = flag == "--set-file"
            values = merged(values, at(key, (folder / text).read_text() if is_file else _scalar(text)))
        else:
            assert flag == "--namespace", flag
    return values


def _scalar(text: str) -> object:
    return {"true": True, "false": False}.get(text, text)
