"""Ray Train's errors in words."""

from __future__ import annotations

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerGroupStartupTimeoutError
from ray.train.v2.api.exceptions import ControllerError, TrainingFailedError, WorkerGroupError

from fastserve_ray.errors import FastServeError, ModelError, PlacementError, TrainingError
from fastserve_ray.training.explain import explain_failure


def of_workers(*causes: Exception) -> FastServeError:
    failures = {
        rank: cause if isinstance(cause, RayActorError | OutOfMemoryError) else UserExceptionWithTraceback(cause, "...")
        for rank, cause in enumerate(causes)
    }
    return explain_failure(WorkerGroupError("words", failures), max_failures=2)


def test_an_error_of_ours_wins() -> None:
    gloo = RuntimeError("gloo: connection closed by peer")
    found = of_workers(gloo, ModelError("no such folder", key="model.base"))
    assert isinstance(found, ModelError)


def test_a_lost_worker_names_the_key() -> None:
    found = of_workers(RuntimeError("gloo: connection closed by peer"), RayActorError())
    assert isinstance(found, TrainingError)
    assert "lost 3 times" in str(found)
    assert found.key == "train.max_failures"


def test_a_worker_killed_for_memory_says_so() -> None:
    assert "gradient_accumulation_steps" in str(of_workers(OutOfMemoryError("Task was killed due to low memory")))


def test_an_exception_is_told_apart_from_what_followed_it() -> None:
    found = of_workers(
        RuntimeError("[gloo/transport] Connection closed by peer"), ZeroDivisionError("division by zero")
    )
    assert "ZeroDivisionError" in str(found)
    assert "division by zero" in str(found)


@pytest.mark.parametrize(
    ("failure", "kind"),
    [(WorkerGroupStartupTimeoutError(4), PlacementError), (ValueError("something else"), TrainingError)],
)
def test_errors_of_the_controller(failure: Exception, kind: type[FastServeError]) -> None:
    error: TrainingFailedError = ControllerError(failure)
    assert isinstance(explain_failure(error, max_failures=0), kind)
