"""Stages whose work runs in the run's worker process, and drivers of them; for tests with a real embedded Ray."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from fastserve_ray.errors import DataError
from fastserve_ray.lazy import LazyTable
from fastserve_ray.run.driver import run
from fastserve_ray.run.ray_runtime import RayRuntime
from fastserve_ray.spec.load import with_overrides
from tests.run import fakes

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import Runtime, StageContext
    from fastserve_ray.spec.run import RunSpec

TABLE = LazyTable(
    "stage", "--until", {name: f"tests.run.ray_fakes:{name}" for name in ("data", "tune", "train", "compress")}
)


def make_spec(storage: Path | str) -> RunSpec:
    """A small Ray without a dashboard."""
    cluster = {"num_cpus": 2, "num_gpus": 0, "object_store_memory_mb": 80, "include_dashboard": False}
    return with_overrides(fakes.make_spec(storage), {"cluster": cluster})


def data(context: StageContext, runtime: Runtime) -> Manifest:
    return runtime.call("tests.run.ray_fakes:publish_process_id", context)


def tune(context: StageContext, runtime: Runtime) -> Manifest:
    return runtime.call("tests.run.ray_fakes:publish_process_id", context)


def train(context: StageContext, runtime: Runtime) -> Manifest:
    return runtime.call(f"tests.run.ray_fakes:{os.environ['FAKE_WORK']}", context)


def compress(context: StageContext, runtime: Runtime) -> Manifest:
    return runtime.call("tests.run.ray_fakes:publish_process_id", context)


def publish_process_id(context: StageContext) -> Manifest:
    """Says in which process it ran."""
    context.progress(step=1, total=1, message="in the worker")
    with context.work_folder() as folder:
        (folder / "content").write_text("x")
        return context.publish(folder, kind="report", metrics={}, info={"process_id": os.getpid()})


def raise_error(context: StageContext) -> Manifest:
    """A user's error."""
    raise DataError("row 7 has no text", value="null", key="data.columns.text")


def raise_bug(context: StageContext) -> Manifest:
    """An error that nobody expected."""
    raise RuntimeError("a bug\nof two lines")


def die(context: StageContext) -> Manifest:
    """As if the machine had run out of memory."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def sleep(context: StageContext) -> Manifest:
    """Long enough to be killed in."""
    context.progress(step=0, total=None, message="sleeping")
    time.sleep(600)
    raise AssertionError


def main(storage: str) -> None:
    """One run; prints the folder of Ray's logs."""
    spec = make_spec(storage)
    runtime = RayRuntime(spec.cluster)
    try:
        run(spec, wait=False, until="compress", stages=TABLE, runtime=runtime)
    finally:
        print("logs", runtime.logs, "torch" in sys.modules, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
