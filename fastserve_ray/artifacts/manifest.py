"""The manifest: what an artifact is, what it holds and where it came from.

It is written last; a folder without one does not exist for readers.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, JsonValue

ArtifactKind = Literal["dataset", "tuning", "model", "report"]

FORMAT_VERSION = 1


class FileEntry(BaseModel):
    """One file of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str
    """Relative to the artifact's folder, with forward slashes."""
    size: Annotated[int, Field(ge=0)]
    """Bytes."""
    sha256: str


class Manifest(BaseModel):
    """An immutable artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT_VERSION
    id: str
    """``<stage>-<first 16 hex digits of the digest>``; the folder's name under ``artifacts/``."""
    kind: ArtifactKind
    stage: str
    digest: str
    """sha256 (hex) of all that decides the content: the spec's parts, the parents' digests, the input files."""
    files: tuple[FileEntry, ...]
    parents: dict[str, str] = {}
    """Artifact ids by the stage that made them."""
    spec: dict[str, JsonValue] = {}
    """The parts of the spec that decided the content."""
    metrics: dict[str, float] = {}
    """``eval_*`` and figures of the stage."""
    info: dict[str, JsonValue] = {}
    """What a reader of this kind of artifact needs to know (task, labels, model type, tuned parameters)."""
    created: str
    """UTC time, ISO 8601."""
    fastserve_version: str


def artifact_id(stage: str, digest: str) -> str:
    """The id of what ``stage`` with ``digest`` publishes."""
    return f"{stage}-{digest[:16]}"
