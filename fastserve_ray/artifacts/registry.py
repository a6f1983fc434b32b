"""The registry: publish, find and fetch artifacts in one storage."""

from __future__ import annotations

import difflib
import hashlib
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pydantic import ValidationError

from fastserve_ray import __version__
from fastserve_ray.artifacts.checksums import MANIFEST_NAME, damages, describe_files
from fastserve_ray.artifacts.manifest import FORMAT_VERSION, ArtifactKind, Manifest, artifact_id
from fastserve_ray.artifacts.publish import ARTIFACTS, manifest_path, publish_files
from fastserve_ray.artifacts.records import list_runs
from fastserve_ray.errors import ArtifactError
from fastserve_ray.storage.cache import cache_root
from fastserve_ray.storage.causes import storage_errors
from fastserve_ray.storage.local import write_atomically
from fastserve_ray.storage.lock import FileLock

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from fastserve_ray.storage.filesystem import Storage


class Registry:
    """All artifacts under one storage's ``artifacts/``. Picklable; several processes may use one storage at once."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage

    def find(self, stage: str, digest: str) -> Manifest | None:
        """The published artifact of ``stage`` with ``digest``, or None.

        Raises:
            ArtifactError: another digest with the same first 16 digits is published, or the manifest is damaged.
        """
        identity = artifact_id(stage, digest)
        if not self.storage.exists(manifest_path(identity)):
            return None
        manifest = self._read(identity)
        if manifest.digest != digest:
            raise ArtifactError(f"{identity} was published with another digest", value=manifest.digest, allowed=digest)
        return manifest

    def get(self, artifact: str) -> Manifest:
        """The manifest of an artifact id.

        Raises:
            ArtifactError: it is not published; the message lists what is.
        """
        if self.storage.exists(manifest_path(artifact)):
            return self._read(artifact)
        known = [manifest.id for manifest in self.list()]
        near = difflib.get_close_matches(artifact, known, n=1)
        raise ArtifactError(
            f"no artifact of this id in {self.storage.where()}",
            value=artifact,
            allowed=", ".join(known) or "nothing is published there yet",
            key="storage",
            hint=f"did you mean {near[0]!r}?" if near else None,
        )

    def list(self) -> list[Manifest]:
        """Every published artifact, the oldest first."""
        names = [name for name in self.storage.list_folders(ARTIFACTS) if self.storage.exists(manifest_path(name))]
        return sorted((self._read(name) for name in names), key=lambda manifest: (manifest.created, manifest.id))

    def publish(
        self,
        folder: Path,
        *,
        kind: ArtifactKind,
        stage: str,
        digest: str,
        parents: Mapping[str, str],
        spec: Mapping[str, JsonValue],
        metrics: Mapping[str, float],
        info: Mapping[str, JsonValue],
    ) -> Manifest:
        """Publish all files under the local ``folder``; it stays as it is.

        Returns:
            the manifest; when another process published the same digest meanwhile, that one's.

        Raises:
            StorageError: a file cannot be read or written; nothing is visible then.
        """
        published = self.find(stage, digest)
        if published is not None:
            return published
        manifest = Manifest(
            id=artifact_id(stage, digest),
            kind=kind,
            stage=stage,
            digest=digest,
            files=describe_files(folder),
            parents=dict(parents),
            spec=dict(spec),
            metrics=dict(metrics),
            info=dict(info),
            created=datetime.now(UTC).isoformat(),
            fastserve_version=__version__,
        )
        publish_files(self.storage, folder, manifest)
        return self._read(manifest.id)

    def fetch(self, artifact: str) -> Path:
        """A local folder with the artifact's files; read only.

        Local storage answers in place, after a look at names and sizes. Else the files are downloaded once into
        ``$FASTSERVE_CACHE`` (default ``~/.cache/fastserve_ray``) and compared by sha256.

        Raises:
            ArtifactError: not published, or damaged.
        """
        manifest = self.get(artifact)
        folder = self.storage.local_path(f"{ARTIFACTS}/{artifact}")
        if folder is None:
            return self._download(manifest)
        _refuse_damage(manifest, damages(folder, manifest, content=False), self.storage.where())
        return folder

    def verify(self, artifact: str) -> Manifest:
        """Compare every byte with the manifest.

        Raises:
            ArtifactError: not published, or damaged.
        """
        manifest = self.get(artifact)
        folder = self.fetch(artifact)
        _refuse_damage(manifest, damages(folder, manifest, content=True), self.storage.where())
        return manifest

    def resolve(self, reference: str) -> Manifest:
        """``artifact:ID``, ``ID`` or ``run@stage``, where run is a run's name (its latest that has the stage
        published) or a run's id.

        Raises:
            ArtifactError: nothing published answers to it.
        """
        name, at, stage = reference.removeprefix("artifact:").partition("@")
        return self._of_run(name, stage) if at else self.get(name)

    def _of_run(self, name: str, stage: str) -> Manifest:
        records = [record for record in list_runs(self.storage) if name in (record.name, record.run_id)]
        for record in reversed(records):
            identity = record.stages.get(stage)
            if identity is not None and self.storage.exists(manifest_path(identity)):
                return self._read(identity)
        known = sorted({f"{record.name}@{at}" for record in list_runs(self.storage) for at in record.stages})
        raise ArtifactError(
            f"no published artifact of this run and stage in {self.storage.where()}",
            value=f"{name}@{stage}",
            allowed=", ".join(known) or "there is no run there yet",
            key="storage",
        )

    def _read(self, artifact: str) -> Manifest:
        path = manifest_path(artifact)
        try:
            manifest = Manifest.model_validate_json(self.storage.read_bytes(path))
        except ValidationError as error:
            problem = error.errors()[0]
            raise ArtifactError(
                f"{self.storage.where(path)} is not a manifest",
                value=f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}",
                hint="the artifact is damaged; delete its folder and run again",
            ) from error
        if manifest.format != FORMAT_VERSION:
            raise ArtifactError(
                f"{self.storage.where(path)} is of another format",
                value=manifest.format,
                allowed=str(FORMAT_VERSION),
                hint=f"it was written by FastServe-Ray {manifest.fastserve_version}",
            )
        return manifest

    def _download(self, manifest: Manifest) -> Path:
        folder = _cache_folder(self.storage.uri, manifest)
        with storage_errors("write", str(folder)), FileLock(folder.with_name(f".{folder.name}.lock")):
            if not (folder / MANIFEST_NAME).exists():
                self._download_into(folder, manifest)
        return folder

    def _download_into(self, folder: Path, manifest: Manifest) -> None:
        """The manifest arrives last here too: a download that was cut short starts again."""
        shutil.rmtree(folder, ignore_errors=True)
        for entry in manifest.files:
            self.storage.download(f"{ARTIFACTS}/{manifest.id}/{entry.path}", folder / entry.path)
        _refuse_damage(manifest, damages(folder, manifest, content=True), self.storage.where())
        write_atomically(folder / MANIFEST_NAME, manifest.model_dump_json(indent=2).encode())


def _cache_folder(uri: str, manifest: Manifest) -> Path:
    """One folder for each storage and each content, so that a new publish under an old id is fetched anew."""
    key = hashlib.sha256(f"{uri}\n{manifest.model_dump_json()}".encode()).hexdigest()[:16]
    return cache_root() / "artifacts" / key / manifest.id


def _refuse_damage(manifest: Manifest, found: list[str], where: str) -> None:
    if found:
        raise ArtifactError(
            f"artifact {manifest.id} in {where} is damaged",
            value="; ".join(found[:3]) + (f"; and {len(found) - 3} more" if len(found) > 3 else ""),
            hint=f"delete its folder artifacts/{manifest.id} and run again",
        )
