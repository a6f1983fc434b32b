"""Helm's own engine, without a helm binary: renders, lints and checks values as `helm install` does."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.helm.kube_api import api_server
from tests.helm.schemas import problems

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).parents[2]
CHART = ROOT / "helm" / "fastserve"
ENGINE = Path(sys.prefix) / "helm-engine"
RELEASE = "demo"
NAMESPACE = "models"
SEVERITIES = ("unknown", "info", "warning", "error")
"""Helm's, by number."""


@dataclass(frozen=True)
class Rendered:
    """What an installation makes. Tests share it: read it only."""

    manifests: list[dict[str, Any]]
    notes: str

    def kinds(self) -> list[str]:
        return sorted(str(manifest["kind"]) for manifest in self.manifests)

    @cached_property
    def problems(self) -> list[str]:
        """What an API server would refuse."""
        return [f"{m['kind']} {problem}" for m in self.manifests for problem in problems(m)]

    def of(self, kind: str, name: str | None = None) -> dict[str, Any]:
        """The only manifest of a kind (and name)."""
        found = [m for m in self.manifests if m["kind"] == kind and name in {None, m["metadata"]["name"]}]
        assert len(found) == 1, f"{kind} {name}: {[m['metadata']['name'] for m in found]} of {self.kinds()}"
        return found[0]


def need_engine() -> None:
    """Skip, and say so, where Helm's engine could not be had."""
    if not (ENGINE / "helm_sdkpy").is_dir():
        pytest.skip("Helm's engine is not there, so the chart was not rendered: make helm (needs a package index)")
    if str(ENGINE) not in sys.path:
        sys.path.append(str(ENGINE))


def render(values: Mapping[str, Any], release: str = RELEASE) -> Rendered:
    """Install the chart into an API server that keeps nothing; what was rendered before is not rendered again.

    Raises:
        helm_sdkpy.InstallError: Helm's own words: a value that the schema refuses, a template's `fail`.
    """
    return _render(json.dumps(values, sort_keys=True), release)


@cache
def _render(values: str, release: str) -> Rendered:
    need_engine()
    import helm_sdkpy

    with api_server() as kubeconfig:
        install = helm_sdkpy.Install(helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig))
        made = asyncio.run(install.run(release, str(CHART), values=json.loads(values), wait=False, timeout=60))
    manifests = [manifest for manifest in yaml.load_all(made["manifest"], yaml.CSafeLoader) if manifest]
    return Rendered(manifests, made["info"]["notes"])


def lint() -> list[tuple[str, str]]:
    """Severity and file of each of Helm's remarks."""
    need_engine()
    import helm_sdkpy

    with api_server() as kubeconfig:
        configuration = helm_sdkpy.Configuration(namespace=NAMESPACE, kubeconfig=kubeconfig)
        result = asyncio.run(helm_sdkpy.Lint(configuration).run(str(CHART)))
    return [(SEVERITIES[message["Severity"]], message["Path"]) for message in result["Messages"] or ()]
