"""What a Ray Train worker is told: values only, no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from fastserve_ray.spec import ModelSpec, TrainSpec


@dataclass(frozen=True)
class Publication:
    """Under which name the trained model is published."""

    digest: str
    parents: Mapping[str, str]
    settings: Mapping[str, JsonValue]
    """The keys of the spec that decided the model."""


@dataclass(frozen=True)
class Patience:
    """When to give up: after ``evaluations`` in a row without a better ``metric``."""

    metric: str
    goal: str
    """minimize or maximize."""
    evaluations: int


@dataclass(frozen=True)
class Work:
    """One training run on Ray Train workers."""

    model: ModelSpec
    """``base``: a hub id, a folder that all workers see, or ``artifact:ID``."""
    train: TrainSpec
    dataset: str
    """Artifact id of a prepared dataset."""
    storage_uri: str
    """Absolute."""
    run_id: str
    stage: str = "train"
    """Name under which events are written."""
    publication: Publication | None = None
    """None trains without publishing and without checkpoints: a trial."""
    resume_from: str | None = None
    """Path in the storage of the checkpoint that an earlier driver left."""
    reports_evaluations: bool = False
    """Every evaluation goes to ``ray.train.report`` with its step, for a search that listens."""
    patience: Patience | None = None
