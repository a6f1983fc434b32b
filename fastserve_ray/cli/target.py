"""What ``serve`` and ``predict`` are given: a YAML file, an artifact, a model folder or a hub id."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import UsageError
from fastserve_ray.serve.result import ARTIFACT, model_manifest, model_of
from fastserve_ray.spec.load import load_spec, parse_spec
from fastserve_ray.spec.serve import ServeSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.run import RunSpec

DEFAULT_STORAGE = "./runs"
SENTENCE_TRANSFORMERS = "modules.json"
"""In the folder of an embedding model."""
YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Target:
    """A model and how to serve it."""

    spec: RunSpec
    model: str
    """A folder, a hub id, or ``artifact:ID`` of ``spec.storage``."""

    @property
    def serve(self) -> ServeSpec:
        return self.spec.serve if self.spec.serve is not None else ServeSpec()

    @property
    def task(self) -> TaskName:
        return self.spec.model.task

    @property
    def model_name(self) -> str:
        return self.serve.model_name or self.spec.name


def resolve_target(
    target: str,
    *,
    sets: Sequence[str] = (),
    task: str | None = None,
    name: str | None = None,
    storage: str | None = None,
) -> Target:
    """Find out what ``target`` is, and make a spec for it.

    Args:
        sets: ``key=value`` overrides, as with ``--set``; they apply to every kind of target.
        task: of a model folder or hub id; default: what the folder's config or the artifact says.
        storage: of an artifact; default ``./runs``.

    Raises:
        SpecError: the file or an override is wrong.
        ArtifactError: nothing published answers to it.
        UsageError: a path that does not exist.
    """
    sets = [*sets, *([f"serve.model_name={json.dumps(name)}"] if name else [])]
    if target.endswith(YAML):
        if storage is not None:
            sets.append(f"storage={json.dumps(storage)}")
        return _of_file(target, [*sets, *([f"model.task={task}"] if task else [])])
    if Path(target).exists():
        found_task = task or _task_of_folder(Path(target))
        return _of_model(target, target, found_task, sets, None)
    if ARTIFACT.fullmatch(target):
        storage = storage or DEFAULT_STORAGE
        manifest = model_manifest(target, storage)
        found_task = task or str(manifest.info.get("task") or "text-generation")
        return _of_model(f"artifact:{manifest.id}", target, found_task, sets, storage)
    if target.startswith(("/", ".", "~")) or target.count("/") > 1:
        raise UsageError(
            "there is no such model folder",
            value=target,
            allowed="app.yaml, a model folder, a hub id, artifact:ID, run@stage",
        )
    return _of_model(target, target, task or "text-generation", sets, None)


def _of_file(path: str, sets: Sequence[str]) -> Target:
    spec = load_spec(path, sets)
    return Target(spec, model_of(spec, path))


def _of_model(model: str, shown: str, task: str, sets: Sequence[str], storage: str | None) -> Target:
    name = Path(shown).name or shown
    settings = {
        "name": re.sub(r"[^a-z0-9._-]+", "-", name.lower()).strip("-._")[:63].strip("-._") or "model",
        "model": {"task": task, "base": model},
        "serve": {"model_name": shown if "/" in shown and not Path(shown).exists() else name},
        "cluster": {"include_dashboard": False},
        **({} if storage is None else {"storage": storage}),
    }
    return Target(parse_spec(json.dumps(settings), file="command line", sets=sets), model)


def _task_of_folder(folder: Path) -> str:
    """By the architecture's name in ``config.json``, and what sentence-transformers keeps beside it."""
    try:
        architectures = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("architectures") or []
    except (OSError, ValueError) as error:
        raise UsageError(
            "this is no model folder (config.json cannot be read)",
            value=str(folder),
            allowed="a folder that save_pretrained wrote",
        ) from error
    is_classifier = any(str(name).endswith("ForSequenceClassification") for name in architectures)
    if (folder / SENTENCE_TRANSFORMERS).is_file():
        return "text-embedding"
    return "text-classification" if is_classifier else "text-generation"
