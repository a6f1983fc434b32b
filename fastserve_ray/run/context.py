"""What a stage gets, and what it may ask of Ray."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from fastserve_ray.errors import ArtifactError
from fastserve_ray.storage.causes import storage_errors

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import ArtifactKind, Manifest
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.events.log import EventWriter
    from fastserve_ray.events.progress import Progress
    from fastserve_ray.plan.resources import Present
    from fastserve_ray.plan.stages import PlannedStage
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.storage.filesystem import Storage

_WORK = ".work"


@dataclass(frozen=True)
class StageContext:
    """One stage of one run. Picklable."""

    spec: RunSpec
    """With the tuned parameters, for the stages after ``tune``."""
    stage: PlannedStage
    inputs: Mapping[str, Manifest]
    """Artifacts by the stage that published them: those that the plan names for this stage."""
    storage: Storage
    registry: Registry
    run_id: str
    events: EventWriter
    progress: Progress

    @property
    def parents(self) -> dict[str, str]:
        """Artifact ids of the inputs, by stage."""
        return {name: manifest.id for name, manifest in self.inputs.items()}

    @property
    def model_input(self) -> Manifest:
        """The model artifact that this stage starts from; the plan names it before the others."""
        for name in self.stage.inputs:
            if self.inputs[name].kind == "model":
                return self.inputs[name]
        raise ArtifactError(f"stage {self.stage.name} has no model among its inputs", value=list(self.inputs))

    def folder_of(self, name: str) -> Path:
        """A local folder with the input ``name``; read only."""
        return self.registry.fetch(self.inputs[name].id)

    def publish(
        self,
        folder: Path,
        *,
        kind: ArtifactKind,
        metrics: Mapping[str, float],
        info: Mapping[str, JsonValue],
    ) -> Manifest:
        """Publish ``folder`` as this stage's artifact."""
        return self.registry.publish(
            folder,
            kind=kind,
            stage=self.stage.name,
            digest=self.stage.digest,
            parents=self.parents,
            spec=dict(self.stage.settings),
            metrics=metrics,
            info=info,
        )

    @contextmanager
    def work_folder(self) -> Iterator[Path]:
        """An empty local folder for the files before they are published; deleted afterwards.

        It lies beside the artifacts where storage is local, because /tmp is often small. What a killed process left
        there for this artifact goes too: only the holder of the artifact's lock comes here.
        """
        root = self.storage.local_path(_WORK)
        clear_work(self.storage, self.stage.artifact_id)
        with storage_errors("write", str(root or tempfile.gettempdir())):
            if root is not None:
                root.mkdir(parents=True, exist_ok=True)
            folder = Path(tempfile.mkdtemp(prefix=f"{self.stage.artifact_id}-", dir=root))
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def clear_work(storage: Storage, artifact: str) -> None:
    """Delete what builders of ``artifact`` that were killed left; for the holder of its lock, or once it is there."""
    root = storage.local_path(_WORK)
    for abandoned in () if root is None else root.glob(f"{artifact}-*"):
        shutil.rmtree(abandoned, ignore_errors=True)


class Runtime(Protocol):
    """Ray, as the stages use it; started by the first stage that needs it."""

    @property
    def dashboard_url(self) -> str | None:
        """Of Ray's dashboard, when it runs."""
        ...

    @property
    def logs(self) -> Path | None:
        """Folder of Ray's logs on this machine, when Ray was started."""
        ...

    def start(self) -> None:
        """Start or join Ray; a second call does nothing."""
        ...

    def present(self) -> Present:
        """CPUs and GPUs of the cluster; starts or joins Ray."""
        ...

    def call(self, work: str, context: StageContext) -> Manifest:
        """Run ``"module:function"`` with ``context`` in the worker process that the stages share.

        Raises:
            FastServeError: what the function raised, or that the process died.
        """
        ...

    def release_worker(self) -> None:
        """End the worker process and free its memory; the next call starts another."""
        ...

    def stop(self, *, keep_logs: bool) -> None:
        """Stop the Ray that was started here, or leave the one that was joined.

        Args:
            keep_logs: leave the logs of a Ray that was started here, for a day.
        """
        ...


class Served(Protocol):
    """What the stage ``serve`` returns: a running application."""

    def fields(self) -> dict[str, JsonValue]:
        """For the ``served`` event: url, model, prompt, answer, curl, links."""
        ...

    def wait(self) -> None:
        """Block until Ctrl-C."""
        ...

    def shutdown(self) -> None:
        """Stop serving."""
        ...
