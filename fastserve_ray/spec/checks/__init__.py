"""Rules that join several keys. Each is a pure function of a spec whose fields are valid one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.adapter import check_adapter
from fastserve_ray.spec.checks.cluster import check_cluster
from fastserve_ray.spec.checks.compress import check_compress, check_verify
from fastserve_ray.spec.checks.data import check_data, check_stages
from fastserve_ray.spec.checks.model import check_model
from fastserve_ray.spec.checks.nodes import check_nodes
from fastserve_ray.spec.checks.parallel import check_parallel
from fastserve_ray.spec.checks.secrets import check_pods, check_secrets
from fastserve_ray.spec.checks.serve import check_serve
from fastserve_ray.spec.checks.shards import check_shards
from fastserve_ray.spec.checks.train import check_train
from fastserve_ray.spec.checks.tune import check_tune
from fastserve_ray.spec.checks.tuned_paths import check_tuned_paths
from fastserve_ray.spec.checks.weights import check_weights

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastserve_ray.spec.problems import Finding
    from fastserve_ray.spec.run import RunSpec

_RULES: tuple[Callable[[RunSpec], Iterable[Finding]], ...] = (
    check_stages,
    check_model,
    check_data,
    check_train,
    check_adapter,
    check_parallel,
    check_tune,
    check_compress,
    check_verify,
    check_serve,
    check_weights,
    check_shards,
    check_cluster,
    check_nodes,
    check_secrets,
    check_pods,
)


def cross_check(spec: RunSpec, *, with_tuned: bool = True) -> list[Finding]:
    """Everything in ``spec`` that does not go together.

    Args:
        spec: valid field by field.
        with_tuned: also try the values of ``tune.parameters`` at their paths.
    """
    findings = [finding for rule in _RULES for finding in rule(spec)]
    if with_tuned:
        findings += check_tuned_paths(spec, lambda other: cross_check(other, with_tuned=False))
    return findings
