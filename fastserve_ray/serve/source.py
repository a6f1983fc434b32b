"""Where a replica takes its model from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ARTIFACT = "artifact:"


@dataclass(frozen=True)
class ModelSource:
    """A model folder, a hub id, or ``artifact:ID`` in a storage."""

    reference: str
    storage: str | None = None
    """URI of the storage that holds the artifact."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""

    def fetch(self) -> str:
        """A local folder, or the hub id. An artifact of a remote storage is downloaded once to a node's cache.

        Raises:
            ArtifactError: the artifact is not published, or damaged.
            ModelError: the hub has no such revision, or cannot be reached.
        """
        if not self.reference.startswith(ARTIFACT):
            return self.reference if self.revision is None else self._download()
        from fastserve_ray.artifacts.registry import Registry
        from fastserve_ray.errors import ArtifactError
        from fastserve_ray.storage.filesystem import Storage

        if self.storage is None:
            raise ArtifactError("an artifact needs its storage", value=self.reference, key="storage")
        return str(Registry(Storage.open(self.storage)).fetch(self.reference.removeprefix(ARTIFACT)))

    def fetch_folder(self) -> str:
        """A local folder, also of a hub id, which is downloaded to the node's cache.

        Raises: as `fetch`.
        """
        found = self.fetch()
        return found if Path(found).exists() else self._download()

    def _download(self) -> str:
        from huggingface_hub import snapshot_download

        from fastserve_ray.errors import ModelError

        if Path(self.reference).exists():
            return self.reference
        try:
            return str(snapshot_download(self.reference, revision=self.revision))
        except (OSError, ValueError) as error:
            raise ModelError(
                f"cannot fetch this model from the hub ({error})",
                value=self.reference if self.revision is None else f"{self.reference} at {self.revision}",
                key="model.base" if self.revision is None else "model.revision",
            ) from error
