"""The serving target's steps, in a fresh virtual environment.

Its packages are not downloaded again: those of requirements-serving.txt, and no others, are linked from the environment
of the tests. The package itself is installed by the Dockerfile's own command, from what the Dockerfile copies. What is
not shown: that Docker builds the image, apt-get, and the kernels (tests/native builds them for one processor).
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING
from venv import EnvBuilder

import pytest

from tests.engines.tiny import build_model, build_tokenizer
from tests.image.dockerfile import ROOT, copied, lineage, read_stages
from tests.image.requirements import FILE, TRAINING, serving_requirements

if TYPE_CHECKING:
    from collections.abc import Iterable

SERVING = lineage(read_stages(), "serving")
BUILD_TOOL = "setuptools"
IMPORT_ALL = """
import importlib, importlib.util, json, pkgutil, sys
for package in ("serve", "engines", "weights", "models", "cli"):
    found = importlib.import_module(f"fastserve_ray.{package}")
    for module in pkgutil.walk_packages(found.__path__, f"{found.__name__}."):
        importlib.import_module(module.name)
there = [name for name in sys.argv[1:] if importlib.util.find_spec(name)]
print(json.dumps({"file": found.__file__, "there": there}))
"""


def test_the_requirements_are_those_of_pyproject_and_constraints() -> None:
    assert FILE.read_text() == serving_requirements(), "python -m tests.image.requirements > requirements-serving.txt"


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The virtual environment after the steps."""
    folder = tmp_path_factory.mktemp("image")
    source, venv = folder / "src", folder / "venv"
    for path in copied(SERVING):
        _copy(ROOT / path, source / path)
    EnvBuilder().create(venv)
    site = next(venv.glob("lib/python*/site-packages"))
    for command in (text for stage in SERVING for text in stage.all("RUN") if text.startswith("pip install")):
        words = shlex.split(command)[2:]
        if words[-1] == ".":
            _link([BUILD_TOOL], site)  # Docker's pip fetches it, and leaves it out of the image
            pip = [sys.executable, "-m", "pip", "--python", str(venv / "bin" / "python"), "install"]
            subprocess.run([*pip, "--quiet", "--no-build-isolation", *words], cwd=source, check=True)
            _unlink([BUILD_TOOL], site)
        elif "--requirement" in words:
            _link(_pinned(source / words[-1]), site)
    return venv


def test_it_has_no_packages_of_training_and_all_that_serving_imports(environment: Path) -> None:
    done = _run(environment, "python", "-c", IMPORT_ALL, *TRAINING)
    answer = json.loads(done.splitlines()[-1])
    assert answer["there"] == []
    assert Path(answer["file"]).is_relative_to(environment)


def test_the_entry_point_answers(environment: Path, tmp_path: Path) -> None:
    build_model("llama").save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    done = _run(environment, "fastserve", "predict", str(tmp_path), "--text", "a b", "--max-tokens", "4", "--json")
    (row,) = map(json.loads, done.splitlines())
    assert row


def _run(environment: Path, *command: str) -> str:
    """As the image runs it, and elsewhere than in the repository."""
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    env = {**inherited, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "FASTSERVE_NATIVE": "0"}
    program = str(environment / "bin" / command[0])
    done = subprocess.run(
        [program, *command[1:]], cwd=environment, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


def _pinned(requirements: Path) -> list[str]:
    lines = [line.split("==") for line in requirements.read_text().splitlines() if not line.startswith("#")]
    for name, version in lines:
        assert distribution(name).version.split("+")[0] == version, name
    return [name for name, _ in lines]


def _link(names: Iterable[str], site: Path) -> None:
    """Make distributions of this environment visible in another one."""
    for name in names:
        for top in _tops(name):
            target = site / top
            if not target.exists():
                target.symlink_to(Path(str(distribution(name).locate_file(top))))


def _unlink(names: Iterable[str], site: Path) -> None:
    for name in names:
        for top in _tops(name):
            (site / top).unlink(missing_ok=True)


def _tops(name: str) -> set[str]:
    """The first parts of a distribution's paths; not its scripts."""
    files = distribution(name).files or ()
    return {file.parts[0] for file in files if file.parts[0] not in {"..", "__pycache__"}}
