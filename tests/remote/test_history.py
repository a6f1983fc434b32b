from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import UsageError
from fastserve_ray.remote.applications import ApplicationState, ServeState, merged
from fastserve_ray.remote.history import History
from fastserve_ray.remote.versions import settle
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from pathlib import Path


def config(model: str) -> dict[str, Any]:
    application = {"name": "org/tiny", "import_path": "a:b", "args": {"model": model}}
    return {"http_options": {"port": 8000}, "applications": [application]}


def told(model: str) -> dict[str, Any]:
    """As Serve gives it back, with more written out."""
    return {**config(model)["applications"][0], "logging_config": {"log_level": "INFO"}}


def state(name: str, status: str, found: dict[str, Any] | None) -> ApplicationState:
    return ApplicationState(name, status, "/", "", (), found)


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(Storage.open(str(tmp_path)), "org/tiny")


def test_the_last_other_version_that_has_run_is_gone_back_to(history: History) -> None:
    with pytest.raises(UsageError, match="no version before this one has run"):
        history.before(None)
    history.add(config("one"), "found")
    history.add(config("two"), "running")
    history.add(config("three"), "failed")
    assert history.before(told("three")).number == 2
    assert history.before(told("two")).number == 1
    assert history.before(None).number == 2
    assert history.before(told("two"), 3).config == config("three"), "a number is taken at its word"
    with pytest.raises(UsageError, match="no such version") as caught:
        history.before(None, 7)
    assert "3 (failed)" in str(caught.value)


def test_an_outcome_is_recorded_later(history: History) -> None:
    version = history.add(config("one"), "deploying")
    settle(history, state("org/tiny", "DEPLOYING", told("one")))
    settle(history, state("org/tiny", "RUNNING", told("another")))
    assert history.versions() == [version]
    settle(history, state("org/tiny", "RUNNING", told("one")))
    assert history.versions() == [dataclasses.replace(version, outcome="running")]


def test_other_applications_are_put_again_with_a_new_one() -> None:
    others = {
        "mine": state("mine", "RUNNING", {"name": "mine", "args": {"model": "old"}}),
        "theirs": state("theirs", "DEPLOY_FAILED", {"name": "theirs"}),
        "by-a-program": state("by-a-program", "RUNNING", None),
        "going": state("going", "DELETING", {"name": "going"}),
    }
    new = {"http_options": {"port": 1}, "applications": [{"name": "mine", "args": {"model": "new"}}]}
    found = merged(ServeState(others, {}, 50.0, None), new)
    assert found["applications"] == [{"name": "theirs"}, {"name": "mine", "args": {"model": "new"}}]
    assert found["target_capacity"] == 50.0
    assert found["http_options"] == {"port": 1}
    assert "target_capacity" not in merged(ServeState({}, {}, None, None), new)
