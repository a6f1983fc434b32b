"""Ray Train's errors in words a user can act on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import FastServeError, PlacementError, TrainingError

if TYPE_CHECKING:
    from ray.train.v2.api.exceptions import TrainingFailedError

_MEMORY_HINT = (
    "lower train.micro_batch_size or raise train.gradient_accumulation_steps, use fewer workers on a node, or a "
    "smaller model"
)


def explain_failure(error: TrainingFailedError, *, max_failures: int) -> FastServeError:
    """The error of the worker that failed first of all in kind: one of ours, else a death, else an exception."""
    from ray.train.v2.api.exceptions import ControllerError, WorkerGroupError

    if isinstance(error, ControllerError):
        return _of_controller(error.controller_failure)
    causes = (
        [_cause(failure) for failure in error.worker_failures.values()] if isinstance(error, WorkerGroupError) else []
    )
    for cause in causes:
        if isinstance(cause, FastServeError):
            return cause
    return _of_death(causes, max_failures) or _of_exception(causes, str(error))


def _cause(failure: Any) -> BaseException:
    """Ray wraps what the training function raised."""
    cause: BaseException = getattr(failure, "_base_exc", failure)
    return cause


def _of_death(causes: list[BaseException], max_failures: int) -> TrainingError | None:
    from ray.exceptions import OutOfMemoryError, RayActorError

    deaths = [cause for cause in causes if isinstance(cause, RayActorError | OutOfMemoryError)]
    if not deaths:
        return None
    is_memory = any(isinstance(death, OutOfMemoryError) or "memory" in str(death).lower() for death in deaths)
    times = max_failures + 1
    return TrainingError(
        f"a training worker was lost {times} time{'s' if times > 1 else ''}",
        value=str(deaths[0]).strip().splitlines()[0],
        allowed=f"{max_failures} losses",
        key="train.max_failures",
        hint=_MEMORY_HINT if is_memory else "a run that is started again goes on from the last checkpoint",
    )


def _of_exception(causes: list[BaseException], text: str) -> TrainingError:
    """Collective calls of the other workers fail in the wake of one; its own error is no ``RuntimeError`` of gloo."""
    first = next((cause for cause in causes if "gloo" not in str(cause).lower()), causes[0] if causes else None)
    lines = (str(first) if first is not None else text).strip().splitlines() or [""]
    kind = type(first).__name__ if first is not None else "an error"
    return TrainingError(
        f"a training worker failed with {kind}",
        value=lines[-1],
        hint="the traceback is in the logs of Ray's session (worker files)",
    )


def _of_controller(failure: BaseException) -> FastServeError:
    name = type(failure).__name__
    if name in ("WorkerGroupStartupTimeoutError", "WorkerGroupStartupFailedError"):
        return PlacementError(
            "the training workers could not be started",
            value=str(failure).strip().splitlines()[0],
            key="train.parallel.workers",
            hint="ask for fewer workers, or less in train.resources_per_worker, than the cluster has free",
        )
    return TrainingError(f"Ray Train failed with {name}", value=(str(failure).strip().splitlines() or [name])[-1])
