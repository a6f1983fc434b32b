"""From the spec to a Serve application: an ingress, and a deployment of replicas for each model."""

from __future__ import annotations

import hashlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy, RequestRouterConfig

from fastserve_ray import __version__
from fastserve_ray.serve.auth.access import Access
from fastserve_ray.serve.embedding import EmbedReplica
from fastserve_ray.serve.gateway import ServedModel
from fastserve_ray.serve.headless import light_actor
from fastserve_ray.serve.ingress import Ingress
from fastserve_ray.serve.quota.deployment import QuotaLedger
from fastserve_ray.serve.replica import ClassifyReplica, GenerateReplica
from fastserve_ray.serve.routing import ROUTERS
from fastserve_ray.serve.stored import weight_servers, with_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ray.serve import Application

    from fastserve_ray.serve.source import ModelSource
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.serve import AutoscalingSpec, RouterSpec, ServeSpec

REPLICAS: dict[TaskName, type] = {
    "text-generation": GenerateReplica,
    "text-classification": ClassifyReplica,
    "text-embedding": EmbedReplica,
}
FAIR = "fair"
"""The engine's policy of equal or weighted shares."""
INGRESS_MAX_ONGOING_REQUESTS = 10_000
"""The ingress never holds a request back: the limit that users set is the one of the model's queue."""
CONTROL_CALLS = 2
"""Places of a replica beyond those that a gate fills: what the ingress itself asks of it must not wait for a place."""
SHUTDOWN_POLL_S = 0.2
"""How often a replica that stops looks whether its requests have ended; Serve's default adds two seconds."""
HEALTH_CHECK_PERIOD_S = 2.0
"""How often Serve looks whether a replica is alive; its default of ten seconds is added to every restart."""
HEALTH_CHECK_TIMEOUT_S = 10.0
"""What one such look waits for. A process that hangs is replaced after three of them: with Serve's default of 30 s that
is more than the minute in which full service shall be back."""
QUIET = {"log_level": "WARNING", "enable_access_log": False}
"""For Serve's processes: the metrics count requests, an access log line for each would cost as much as a token."""

TOKEN_POLICY = "fastserve_ray.serve.autoscaling:OutstandingTokens"
"""Loaded by Serve's controller."""


@dataclass(frozen=True)
class ServeTarget:
    """One model to serve."""

    source: ModelSource
    task: TaskName
    name: str
    """In ``/v1/models``."""
    spec: ServeSpec
    version: str | None = None
    """Of what its replicas run: where it is the same in a new version of the application, they go on. None: they are
    new ones in any case."""


def build_app(targets: Sequence[ServeTarget], access: Access | None = None, *, surge_percent: int = 100) -> Application:
    """The application of all ``targets`` under one ingress; their names differ. The first one's spec is that of the
    application.

    Args:
        access: who may ask; default: everybody.
        surge_percent: when the application replaces another version: replicas of the new one that are started before
            those of the old one stop. With 0 a model that has one replica has none in between.
    """
    created = int(time.time())
    access = access or Access()
    models = [served_model(target, created, access) for target in targets]
    handles = [
        _model_deployment(target, surge_percent, has_gate=model.has_fair_queue)
        for target, model in zip(targets, models, strict=True)
    ]
    ingress = serve.deployment(
        Ingress,
        name="ingress",
        ray_actor_options=light_actor(),
        max_ongoing_requests=INGRESS_MAX_ONGOING_REQUESTS,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        max_surge_percent=100,
        graceful_shutdown_timeout_s=max(target.spec.request_timeout_s for target in targets),
        graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_S,
        logging_config=QUIET,
    )
    return ingress.bind(
        models,
        *handles,
        access=access,
        ledger=None if access.keys is None else _ledger(targets[0].name),
        application=targets[0].spec.application,
        contents=(tuple(targets), access),
    )


def _ledger(application: str) -> Application:
    """One for the application, however many processes answer HTTP."""
    deployment = serve.deployment(
        QuotaLedger,
        name="quota",
        ray_actor_options=light_actor(),
        max_ongoing_requests=INGRESS_MAX_ONGOING_REQUESTS,
        graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_S,
        logging_config=QUIET,
    )
    deployment._version = f"{__version__}-quota"  # it goes on in new versions of the application
    return deployment.bind(application)


def served_model(target: ServeTarget, created: int, access: Access) -> ServedModel:
    """What the ingress knows of a model. Its queue is fair where there are keys, or users with shares."""
    spec = target.spec
    return ServedModel(
        target.name,
        target.task,
        created,
        spec.request_timeout_s,
        spec.limits,
        spec.max_ongoing_requests,
        spec.max_queued_requests,
        has_fair_queue=access.keys is not None or spec.engine.scheduler.policy == FAIR,
        request_log=spec.request_log,
        scales_to_zero=spec.autoscaling_config.min_replicas == 0,
    )


def _model_deployment(target: ServeTarget, surge_percent: int, *, has_gate: bool) -> Application:
    spec = target.spec
    source = with_store(target.source, spec)
    deployment = serve.deployment(
        REPLICAS[target.task],
        name=deployment_name(target.name),
        ray_actor_options=replica_resources(spec),
        **shard_bundles(spec),
        max_ongoing_requests=spec.max_ongoing_requests + (CONTROL_CALLS if has_gate else 0),
        max_queued_requests=spec.max_queued_requests,
        max_surge_percent=surge_percent,
        graceful_shutdown_timeout_s=spec.request_timeout_s,
        graceful_shutdown_wait_loop_s=SHUTDOWN_POLL_S,
        health_check_period_s=HEALTH_CHECK_PERIOD_S,
        health_check_timeout_s=HEALTH_CHECK_TIMEOUT_S,
        logging_config=QUIET,
        **weight_servers(source, target.task, spec),
        request_router_config=router_config(spec.router),
        **replica_count(spec.autoscaling_config),
    )
    deployment._version = replica_version(target, source)  # Serve has no public way to say what has not changed
    shards = () if spec.shards.tensor == 1 else (spec.shards,)
    return deployment.bind(source, _engine_spec(spec), *shards)


def replica_version(target: ServeTarget, source: ModelSource) -> str | None:
    """With the weight store replicas are others than without it, which may also follow from their number."""
    if target.version is None or source.stored is None:
        return target.version
    return f"{target.version}-stored"


def deployment_name(model: str) -> str:
    """Of a model's replicas: the same in every version of the application, so that a new one can take over."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", model).strip("-")[:40]
    return f"model-{readable}-{hashlib.sha256(model.encode()).hexdigest()[:6]}"


def replica_resources(spec: ServeSpec) -> dict[str, float]:
    return {"num_cpus": spec.resources_per_replica.CPU, "num_gpus": spec.resources_per_replica.GPU}


def shard_bundles(spec: ServeSpec) -> dict[str, Any]:
    """A bundle for each shard, the replica's first; none for a replica that runs its model alone."""
    if spec.shards.tensor == 1:
        return {}
    bundle = {"CPU": spec.resources_per_replica.CPU, "GPU": spec.resources_per_replica.GPU}
    bundles = [{kind: float(amount) for kind, amount in bundle.items() if amount}] * spec.shards.tensor
    return {"placement_group_bundles": bundles, "placement_group_strategy": "PACK"}


def replica_count(spec: AutoscalingSpec) -> dict[str, Any]:
    """Serve's options: a fixed count needs no autoscaler."""
    if spec.min_replicas == spec.max_replicas:
        return {"num_replicas": spec.min_replicas}
    settings = spec.model_dump(exclude={"target_outstanding_tokens"})
    if spec.target_outstanding_tokens is not None:
        settings["policy"] = AutoscalingPolicy(
            policy_function=TOKEN_POLICY, policy_kwargs={"target_tokens": spec.target_outstanding_tokens}
        )
    return {"autoscaling_config": AutoscalingConfig(**settings)}


def router_config(spec: RouterSpec) -> RequestRouterConfig:
    """Serve's options.

    Raises:
        UnknownNameError: there is no such router.
    """
    if spec.kind == "prefix-load":
        settings: dict[str, Any] = {"max_skew": spec.max_skew, "slack_tokens": spec.slack_tokens}
    else:
        settings = dict(spec.options)
    return RequestRouterConfig(
        request_router_class=ROUTERS.load(spec.kind),
        request_router_kwargs=settings,
        request_routing_stats_period_s=spec.stats_period_s,
    )


def _engine_spec(spec: ServeSpec) -> Any:
    """Torch takes as many threads as the replica has CPUs, unless the user says otherwise."""
    if spec.engine.num_threads is not None:
        return spec.engine
    threads = max(1, int(spec.resources_per_replica.CPU))
    return type(spec.engine).model_validate({**spec.engine.model_dump(), "num_threads": threads})
