"""Stage ``data``: rows to token sequences."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext


def run_stage(context: StageContext, runtime: Runtime) -> Manifest:
    """Publishes a dataset."""
    return runtime.call(f"{__name__}:work", context)


def work(context: StageContext) -> Manifest:
    """In the worker process."""
    from fastserve_ray.data.prepare import prepare_dataset
    from fastserve_ray.run.stages.base_model import spec_with_local_base

    def warn(message: str) -> None:
        context.events.emit("warning", context.stage.name, message=message)

    with context.work_folder() as folder:
        with _kept_report(context, folder):
            info = prepare_dataset(spec_with_local_base(context), folder, context.progress, warn)
        figures = {"num_train": info.num_train, "num_validation": info.num_validation, "num_tokens": info.num_tokens}
        if info.bad_rows or info.bad_files:
            figures |= {"bad_rows": info.bad_rows, "bad_files": info.bad_files}
        metrics = {name: float(value) for name, value in figures.items()}
        return context.publish(folder, kind="dataset", metrics=metrics, info=info.model_dump(mode="json"))


@contextmanager
def _kept_report(context: StageContext, folder: Path) -> Iterator[None]:
    """What names the bad rows outlives the work folder, also when they end the stage."""
    from fastserve_ray.data.bad_rows import REPORT_FILE
    from fastserve_ray.errors import DataError

    try:
        yield
    except DataError as error:
        report = folder / REPORT_FILE
        if report.is_file():
            place = f"runs/{context.run_id}/{REPORT_FILE}"
            context.storage.upload(report, place)
            error.hint = f"{error.hint or ''} (all are listed in {place} of the storage)".strip()
        raise
