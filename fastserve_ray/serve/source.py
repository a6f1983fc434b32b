"""Where a replica takes its model from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.serve.stored import StoredWeights

ARTIFACT = "artifact:"
WEIGHT_FILES = (".safetensors", ".bin")


@dataclass(frozen=True)
class ModelSource:
    """A model folder, a hub id, or ``artifact:ID`` in a storage."""

    reference: str
    storage: str | None = None
    """URI of the storage that holds the artifact."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    stored: StoredWeights | None = None
    """Where replicas find the weights in memory; None: each loads them."""

    def fetch(self) -> str:
        """A local folder, or the hub id. An artifact of a remote storage is downloaded once to a node's cache.

        Raises:
            ArtifactError: the artifact is not published, or damaged.
            ModelError: the hub has no such revision, or cannot be reached.
        """
        if not self.reference.startswith(ARTIFACT):
            return self.reference if self.revision is None else self._download()
        return str(self._registry().fetch(self.reference.removeprefix(ARTIFACT)))

    def weight_bytes(self) -> int | None:
        """Of the files of weights; None for a hub id, whose size nobody knows before it is fetched.

        Raises:
            ArtifactError: the artifact is not published.
        """
        if self.reference.startswith(ARTIFACT):
            files = self._registry().get(self.reference.removeprefix(ARTIFACT)).files
            return sum(entry.size for entry in files if entry.path.endswith(WEIGHT_FILES))
        folder = Path(self.reference)
        if not folder.is_dir():
            return None
        return sum(path.stat().st_size for path in folder.iterdir() if path.name.endswith(WEIGHT_FILES))

    def _registry(self) -> Registry:
        from fastserve_ray.artifacts.registry import Registry
        from fastserve_ray.errors import ArtifactError
        from fastserve_ray.storage.filesystem import Storage

        if self.storage is None:
            raise ArtifactError("an artifact needs its storage", value=self.reference, key="storage")
        return Registry(Storage.open(self.storage))

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
