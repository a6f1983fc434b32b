"""A cluster of three nodes on this machine trains and serves across them, and goes on when one is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from fastserve_ray.events.log import EventReader
from tests.integration.faults import PROMPT
from tests.integration.nodes.inputs import Training, check_metrics, prepare_training, run_program
from tests.integration.nodes.machines import new_cluster, one_network, own_networks, why_no_networks
from tests.integration.nodes.program import TOKENS, Work
from tests.integration.served import generate

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.nodes.machines import Machine

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(900)]

NUM_MACHINES = 6
"""The head, two nodes, and one for each that is lost."""


class Case(NamedTuple):
    found: dict[str, Any]
    """See `program.main`."""
    training: Training
    machines: list[Machine]

    @property
    def shares_port(self) -> bool:
        """Whether a client's connection may be one to the proxy of the node that is lost."""
        return self.machines[0] == self.machines[-1]


@pytest.fixture(scope="module", params=[one_network, own_networks])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, generator_folder: Path) -> Case:
    """What the program found, where the nodes share a network, and where each has its own."""
    if request.param is own_networks and (reason := why_no_networks()):
        pytest.skip(f"{reason}: this test did not run")
    folder = tmp_path_factory.mktemp("nodes")
    training = prepare_training(folder, num_workers=2)
    with request.param(NUM_MACHINES) as machines, new_cluster(machines) as nodes:
        found = run_program(machines[0], "program", Work(nodes, generator_folder, training.arguments), folder)
    return Case(found, training, machines)


@pytest.fixture(scope="module")
def expected(generator_folder: Path) -> str:
    """What one process writes."""
    return generate(generator_folder, PROMPT, TOKENS)[0]


def test_the_nodes_have_these_addresses(case: Case) -> None:
    assert case.found["addresses"] == [machine.address for machine in case.machines[:3]]


def test_the_model_is_that_of_an_uninterrupted_run(case: Case) -> None:
    """Trained by two workers on two nodes, of which one was lost."""
    arguments = case.training.arguments
    events = EventReader(arguments["storage_uri"], arguments["run_id"]).poll()
    assert any(str(event.fields.get("message")).startswith("going on from step-") for event in events)
    check_metrics(case.found["training"], case.training)


@pytest.mark.parametrize("service", ["shards", "replicas"])
def test_answers_go_on_when_a_node_is_lost(service: str, case: Case, expected: str) -> None:
    """Two shards of one replica, and two replicas over a weight store, on two nodes; of which one is lost."""
    seen = case.found[service]
    assert seen["before"] == seen["after"] == expected
    for status, text, code in seen["under_load"]:
        if status is None:
            assert case.shares_port, "the connection was closed"
        else:
            assert (status, text) == (200, expected) or (status >= 500 and code is not None), (status, text, code)
