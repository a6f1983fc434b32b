"""The driver: executes a spec.

A run in numbered steps: (1) open storage and see that it can be written, (2) plan, and check placement, (3) write
the run's folder, (4) for each stage: skip it when its artifact is published, else build it under a lock, (5) serve,
ask a sample, wait, (6) stop Ray. Whatever happens is an event. A driver that is killed leaves published artifacts and
checkpoints; the next one goes on from there.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.events.log import EventReader, EventWriter
from fastserve_ray.plan.fit import check_memory
from fastserve_ray.plan.resources import check_placement, present_resources
from fastserve_ray.plan.stages import Plan, plan_run
from fastserve_ray.run.folder import new_record, write_run_folder
from fastserve_ray.run.progress import POLL_SECONDS, REMOTE_POLL_SECONDS, ProgressThread
from fastserve_ray.run.signals import terminate_as_interrupt
from fastserve_ray.run.table import STAGES
from fastserve_ray.run.walk import RunResult, Walk
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.lazy import LazyTable
    from fastserve_ray.run.context import Runtime
    from fastserve_ray.run.progress import Renderer
    from fastserve_ray.spec.run import RunSpec


def run(
    spec: RunSpec,
    *,
    spec_text: str = "",
    wait: bool = True,
    until: str | None = None,
    renderer: Renderer | None = None,
    stages: LazyTable = STAGES,
    runtime: Runtime | None = None,
) -> RunResult:
    """Execute a spec from its first unpublished stage to its last.

    Args:
        spec: a valid spec.
        spec_text: the file as the user wrote it, kept in the run's folder.
        wait: keep serving until Ctrl-C; otherwise stop after the sample.
        until: the last stage to run; default: all.
        renderer: shows the run's events while it runs.
        stages: functions by stage name.
        runtime: Ray; default: as ``spec.cluster`` says.

    Raises:
        FastServeError: what went wrong; nothing half made is published, checkpoints stay.
        KeyboardInterrupt: Ctrl-C or SIGTERM before the model was served; Ray is stopped.
    """
    storage = Storage.open(spec.storage)
    storage.check_writable()
    plan = plan_run(spec)
    spec = plan.spec
    if until is not None:
        last = plan.names.index(plan.stage(until).name)
        plan = Plan(spec, plan.stages[: last + 1])
    if runtime is None:
        from fastserve_ray.run.ray_runtime import RayRuntime

        runtime = RayRuntime(spec.cluster)
    with terminate_as_interrupt(), _runtime(runtime):
        present = present_resources(spec)
        if present.cpus is None:
            present = runtime.present()
        check_placement(plan, present.cpus, present.gpus)
        check_memory(spec, stages=_unpublished(plan, storage))
        record = new_record(spec, plan)
        write_run_folder(storage, record, spec_text, plan)
        with ExitStack() as stack:
            if renderer is not None:
                reader = EventReader(storage.uri, record.run_id)
                seconds = POLL_SECONDS if storage.is_local else REMOTE_POLL_SECONDS
                stack.enter_context(ProgressThread(reader, renderer, poll_seconds=seconds))
            events = stack.enter_context(EventWriter(storage.uri, record.run_id, "driver"))
            walk = Walk(plan, storage, run_id=record.run_id, events=events, stages=stages, runtime=runtime)
            return walk.run(wait=wait)


def _unpublished(plan: Plan, storage: Storage) -> list[str]:
    """Stages that will be built."""
    registry = Registry(storage)
    return [stage.name for stage in plan.stages if registry.find(stage.name, stage.digest) is None]


@contextmanager
def _runtime(runtime: Runtime) -> Iterator[None]:
    try:
        yield
    except BaseException:
        runtime.stop(keep_logs=True)
        raise
    runtime.stop(keep_logs=False)
