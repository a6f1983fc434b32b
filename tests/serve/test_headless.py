"""Where actors without processors may run."""

from __future__ import annotations

from typing import Any

import pytest

from fastserve_ray.serve.headless import off_empty_head

HEAD_ID, WORKER_ID = "a" * 56, "b" * 56
WORKER = {"NodeID": WORKER_ID, "Alive": True, "Resources": {"CPU": 4.0, "memory": 1.0}}


def head(*, alive: bool = True, **resources: float) -> dict[str, Any]:
    return {"NodeID": HEAD_ID, "Alive": alive, "Resources": {"node:__internal_head__": 1.0, **resources}}


@pytest.mark.parametrize(
    ("nodes", "option"),
    [
        ([head(), WORKER], {"label_selector": {"ray.io/node-id": f"!{HEAD_ID}"}}),
        ([WORKER, head(CPU=0.0)], {"label_selector": {"ray.io/node-id": f"!{HEAD_ID}"}}),
        ([head(CPU=2.0), WORKER], {}),
        ([head(alive=False), WORKER], {}),
        ([], {}),
    ],
)
def test_only_a_head_without_processors_is_left_out(nodes: list[dict[str, Any]], option: dict[str, Any]) -> None:
    assert off_empty_head(nodes) == option
