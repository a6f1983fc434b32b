"""Serves the YAML of an application with small models of random weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastserve_ray.serve.deploy import ServedApp, deploy
from fastserve_ray.spec.load import load_spec

ROOT = Path(__file__).parents[2] / "deployments"
Start = Callable[[str, dict[str, str], list[str]], ServedApp]


@pytest.fixture(scope="module")
def start(ray_cluster: str) -> Iterator[Start]:
    """Start the file of an application, with its environment and ``--set``s."""
    with ExitStack() as stack:

        def serve(name: str, env: dict[str, str], sets: list[str]) -> ServedApp:
            spec = load_spec(ROOT / name / "app.yaml", ["serve.port=0", *sets], env=env)
            assert spec.serve is not None
            assert spec.model.base is not None
            app = deploy(spec.model.base, spec.model.task, spec.name, spec.serve)
            stack.callback(app.shutdown)
            return app

        yield serve
