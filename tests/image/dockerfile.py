"""The Dockerfile, as far as tests read it: stages, what each is made from, and its steps."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Stage:
    """What stands between one FROM and the next."""

    name: str
    base: str
    """Another stage, or an image."""
    steps: list[tuple[str, str]] = field(default_factory=list)
    """Instruction and what follows it, in order."""

    def all(self, instruction: str) -> list[str]:
        return [text for word, text in self.steps if word == instruction]


def read_stages() -> dict[str, Stage]:
    """The Dockerfile's stages by name, with its arguments filled in by their defaults."""
    text = re.sub(r"\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    arguments: dict[str, str] = {}
    stages: dict[str, Stage] = {}
    for line in lines:
        word, rest = line.split(maxsplit=1)
        if word == "ARG":
            name, value = rest.split("=", 1)
            arguments[name] = value
        elif word == "FROM":
            base, name = re.sub(r"\$\{(\w+)\}", lambda match: arguments[match[1]], rest).split(" AS ")
            stages[name] = Stage(name, base)
        else:
            next(reversed(stages.values())).steps.append((word, rest))
    return stages


def lineage(stages: dict[str, Stage], name: str) -> list[Stage]:
    """A stage and those that it is made from, the first one first."""
    stage = stages[name]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def copied(stages: list[Stage]) -> list[str]:
    """Paths that are copied from this repository."""
    copies = [text.split() for stage in stages for text in stage.all("COPY")]
    return [path for words in copies if not words[0].startswith("--from") for path in words[:-1]]
