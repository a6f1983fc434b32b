"""Stages without Ray: real storage, real events, results of a few bytes, and a way to die in the middle."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import FastServeError
from fastserve_ray.lazy import LazyTable
from fastserve_ray.plan.resources import Present
from fastserve_ray.spec.load import spec_from_dict

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.artifacts.manifest import ArtifactKind, Manifest
    from fastserve_ray.run.context import Runtime, StageContext
    from fastserve_ray.spec.run import RunSpec

NAMES = ("data", "tune", "train", "compress", "verify")
TABLE = LazyTable("stage", "--until", {name: f"tests.run.fakes:{name}" for name in (*NAMES, "serve")})
BEST_LEARNING_RATE = 0.0123
EXECUTIONS = "FAKE_EXECUTIONS"
"""Variable with a file to which every stage that finishes its work adds its name."""
FAILS = "FAKE_FAILS"
"""Variable with the stage that raises."""
DIES = "FAKE_DIES"
"""Variable with ``stage:before`` or ``stage:after`` the publish, where the process kills itself."""


def make_spec(storage: Path | str, **changes: object) -> RunSpec:
    """A spec with all stages."""
    return spec_from_dict(
        {
            "name": "fake",
            "storage": str(storage),
            "cluster": {"num_cpus": 4, "num_gpus": 0},
            "model": {"config": {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2}},
            "data": {"train": {"kind": "python-docs"}},
            "tune": {"parameters": {"train.learning_rate": {"space": "uniform", "lower": 0.001, "upper": 0.1}}},
            "train": {"learning_rate": 0.5},
            "compress": [{"kind": "quantize"}],
            "serve": {"port": 0},
            **changes,
        }
    )


class NoRay:
    """A Runtime that must not be needed; counts its stops."""

    dashboard_url: str | None = None
    logs: Path | None = None

    def __init__(self) -> None:
        self.stops: list[bool] = []

    def start(self) -> None:
        raise AssertionError("no stage here needs Ray")

    def present(self) -> Present:
        return Present(1.0, 0.0)

    def call(self, work: str, context: StageContext) -> Manifest:
        raise AssertionError("no stage here needs Ray")

    def release_worker(self) -> None:
        raise AssertionError("no stage here needs Ray")

    def stop(self, *, keep_logs: bool) -> None:
        self.stops.append(keep_logs)


def data(context: StageContext, runtime: Runtime) -> Manifest:
    return _stage(context, "dataset", "rows")


def tune(context: StageContext, runtime: Runtime) -> Manifest:
    return _stage(context, "tuning", "trials", info={"best": {"train.learning_rate": BEST_LEARNING_RATE}})


def train(context: StageContext, runtime: Runtime) -> Manifest:
    assert context.spec.train is not None
    return _stage(context, "model", f"weights trained at {context.spec.train.learning_rate}")


def compress(context: StageContext, runtime: Runtime) -> Manifest:
    weights = (context.folder_of("train") / "content").read_text()
    return _stage(context, "model", f"small {weights}")


def verify(context: StageContext, runtime: Runtime) -> Manifest:
    return _stage(context, "report", "equal")


def serve(context: StageContext, runtime: Runtime) -> FakeServed:
    _perhaps_fail("serve")
    return FakeServed(context)


class FakeServed:
    """Counts in the executions file."""

    def __init__(self, context: StageContext) -> None:
        self._context = context

    def fields(self) -> dict[str, JsonValue]:
        model = self._context.model_input
        return {"url": "http://nowhere", "model": model.id, "prompt": "a", "answer": "b", "curl": "curl nowhere"}

    def wait(self) -> None:
        _executed("waited")

    def shutdown(self) -> None:
        _executed("shut-down")


def _stage(
    context: StageContext, kind: ArtifactKind, content: str, *, info: dict[str, JsonValue] | None = None
) -> Manifest:
    name = context.stage.name
    _perhaps_fail(name)
    with context.work_folder() as folder:
        (folder / "content").write_text(content)
        for step in range(3):
            context.progress(step=step + 1, total=3, loss=1.0 / (step + 1))
        _perhaps_die(f"{name}:before")
        manifest = context.publish(folder, kind=kind, metrics={"eval_loss": 0.5}, info=info or {})
        _executed(name)
        _perhaps_die(f"{name}:after")
    return manifest


def _perhaps_fail(name: str) -> None:
    if os.environ.get(FAILS) == name:
        raise FastServeError("it does not work", value="42", key=f"{name}.key")
    if os.environ.get(FAILS) == f"{name}:unexpected":
        raise RuntimeError("a bug")
    if os.environ.get(FAILS) == f"{name}:terminated":
        os.kill(os.getpid(), signal.SIGTERM)


def _perhaps_die(place: str) -> None:
    if os.environ.get(DIES) == place:
        os.kill(os.getpid(), signal.SIGKILL)


def _executed(name: str) -> None:
    path = os.environ.get(EXECUTIONS)
    if path is not None:
        with Path(path).open("a") as file:
            file.write(f"{name}\n")
