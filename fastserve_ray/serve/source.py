"""Where a replica takes its model from."""

from __future__ import annotations

from dataclasses import dataclass

ARTIFACT = "artifact:"


@dataclass(frozen=True)
class ModelSource:
    """A model folder, a hub id, or ``artifact:ID`` in a storage."""

    reference: str
    storage: str | None = None
    """URI of the storage that holds the artifact."""

    def fetch(self) -> str:
        """A local folder, or the hub id. An artifact of a remote storage is downloaded once to a node's cache.

        Raises:
            ArtifactError: the artifact is not published, or damaged.
        """
        if not self.reference.startswith(ARTIFACT):
            return self.reference
        from fastserve_ray.artifacts.registry import Registry
        from fastserve_ray.errors import ArtifactError
        from fastserve_ray.storage.filesystem import Storage

        if self.storage is None:
            raise ArtifactError("an artifact needs its storage", value=self.reference, key="storage")
        return str(Registry(Storage.open(self.storage)).fetch(self.reference.removeprefix(ARTIFACT)))
