"""What serving needs, pinned: `python -m tests.image.requirements > requirements-serving.txt`

pyproject.toml's dependencies are those of everything. A serving image leaves out what only training and tuning import;
what the rest depends on is found in the metadata of what is installed here, and the versions are those of
constraints.txt.
"""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
FILE = ROOT / "requirements-serving.txt"
TRAINING = {"deepspeed", "optuna", "tensorboardx"}
RAY = "ray[serve]"
"""Instead of ray[serve,train,tune]."""
HEAD = """\
# What serving needs of constraints.txt, for pip install --no-deps. Made by
#   python -m tests.image.requirements > requirements-serving.txt
"""


def serving_requirements() -> str:
    """The file's text."""
    pins = dict(line.split("==") for line in _lines(ROOT / "constraints.txt"))
    versions: dict[str, str] = {canonicalize_name(name): version for name, version in pins.items()}
    names = sorted(needed(_direct()) & versions.keys())  # setuptools and pip come with Python
    return HEAD + "".join(f"{name}=={versions[name]}\n" for name in names)


def needed(direct: list[Requirement]) -> set[str]:
    """Names of what is asked for and all that it needs on this platform."""
    asked, seen = list(direct), set()
    while asked:
        requirement = asked.pop()
        for extra in {"", *requirement.extras}:
            key = (canonicalize_name(requirement.name), extra)
            if key not in seen:
                seen.add(key)
                asked += [found for found in map(Requirement, requires(requirement.name) or ()) if _holds(found, extra)]
    return {name for name, _ in seen}


def _direct() -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = (re.sub(r"^ray\[[^]]*\]", RAY, text) for text in project["dependencies"])
    found = [Requirement(text) for text in texts]
    return [requirement for requirement in found if canonicalize_name(requirement.name) not in TRAINING]


def _holds(requirement: Requirement, extra: str) -> bool:
    return not extra if requirement.marker is None else requirement.marker.evaluate({"extra": extra})


def _lines(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


if __name__ == "__main__":
    print(serving_requirements(), end="")
