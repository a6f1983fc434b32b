"""Rules about ``serve``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.checks.model import POSITIONS, integer_of
from fastserve_ray.spec.checks.models import check_models, check_models_fit
from fastserve_ray.spec.checks.train import whole_gpus
from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.serve import AutoscalingSpec, EngineSpec, RouterSpec, ServeSpec

_SCALING = ("serve", "autoscaling_config")
_ENGINE = ("serve", "engine")
_ROUTER = ("serve", "router")
_OF_PREFIX_LOAD = ("max_skew", "slack_tokens")


def check_serve(spec: RunSpec) -> Iterator[Finding]:
    """Replica counts in order, and an engine whose budgets fit together."""
    if spec.serve is None:
        return
    yield from _one_model(spec.serve, spec.model.task)
    yield from check_models(spec, _one_model)
    yield from check_models_fit(spec)
    yield from _model_length(spec, spec.serve.engine)
    yield from _auth(spec.serve)


def _one_model(serve: ServeSpec, task: TaskName) -> Iterator[Finding]:
    if task == "masked-lm":
        yield Finding(
            ("serve",),
            "a masked language model is made to be fine-tuned; there is no endpoint for it",
            None,
            "a file without `serve`; then one with model.base: run@train and task: text-classification",
            uses=(("model", "task"),),
        )
    yield from _replicas(serve)
    yield from _scaling(serve.autoscaling_config)
    yield from _router(serve.router)
    yield from _budgets(serve.engine)
    yield from _attention(serve.engine)
    if serve.engine.int8_output_layer and task != "text-generation":
        yield Finding(
            (*_ENGINE, "int8_output_layer"),
            f"a {task} model has no output layer over a vocabulary",
            "true",
            "false",
            uses=(("model", "task"),),
        )
    yield from whole_gpus(serve.resources_per_replica, ("serve", "resources_per_replica"))


def _auth(serve: ServeSpec) -> Iterator[Finding]:
    if serve.auth is not None and (serve.auth.keys_file is None) == (serve.auth.keys_env is None):
        given = "both" if serve.auth.keys_file is not None else "neither"
        yield Finding(("serve", "auth"), "one way to give the API keys", given, "keys_file or keys_env")


def _replicas(serve: ServeSpec) -> Iterator[Finding]:
    scaling = serve.autoscaling_config
    low, high, first = scaling.min_replicas, scaling.max_replicas, scaling.initial_replicas
    bounds = ((*_SCALING, "min_replicas"), (*_SCALING, "max_replicas"))
    if low > high:
        yield Finding(bounds[0], f"greater than max_replicas ({high})", str(low), f"at most {high}", uses=bounds)
    elif first is not None and not low <= first <= high:
        allowed = f"min_replicas ({low}) to max_replicas ({high})"
        yield Finding((*_SCALING, "initial_replicas"), "out of range", str(first), allowed, uses=bounds)
    if scaling.target_ongoing_requests > serve.max_ongoing_requests:
        yield Finding(
            (*_SCALING, "target_ongoing_requests"),
            f"greater than serve.max_ongoing_requests ({serve.max_ongoing_requests}), so no replica is ever added",
            str(scaling.target_ongoing_requests),
            f"at most {serve.max_ongoing_requests}",
            uses=(("serve", "max_ongoing_requests"),),
        )


def _scaling(scaling: AutoscalingSpec) -> Iterator[Finding]:
    if {"target_ongoing_requests", "target_outstanding_tokens"} <= scaling.model_fields_set:
        yield Finding(
            (*_SCALING, "target_ongoing_requests"),
            "not used beside target_outstanding_tokens",
            str(scaling.target_ongoing_requests),
            "one of the two",
            uses=((*_SCALING, "target_outstanding_tokens"),),
        )
    if scaling.look_back_period_s <= scaling.metrics_interval_s:
        yield Finding(
            (*_SCALING, "look_back_period_s"),
            f"not longer than metrics_interval_s ({scaling.metrics_interval_s:g})",
            f"{scaling.look_back_period_s:g}",
            f"more than {scaling.metrics_interval_s:g}",
            uses=((*_SCALING, "metrics_interval_s"),),
        )


def _router(router: RouterSpec) -> Iterator[Finding]:
    """Settings that the chosen router does not read."""
    used = _OF_PREFIX_LOAD if router.kind == "prefix-load" else ("options",) if ":" in router.kind else ()
    for key in (*_OF_PREFIX_LOAD, "options"):
        if key in router.model_fields_set and key not in used:
            allowed = "package.module:Class" if key == "options" else "prefix-load"
            yield Finding(
                (*_ROUTER, key),
                f"not used by router {router.kind}",
                str(getattr(router, key)),
                f"serve.router.kind: {allowed}, or without this key",
                uses=((*_ROUTER, "kind"),),
            )


def _budgets(engine: EngineSpec) -> Iterator[Finding]:
    if engine.max_num_batched_tokens < engine.max_num_seqs:
        yield Finding(
            (*_ENGINE, "max_num_batched_tokens"),
            f"less than max_num_seqs ({engine.max_num_seqs}): each running request takes a token of every step",
            str(engine.max_num_batched_tokens),
            f"at least {engine.max_num_seqs}",
            uses=((*_ENGINE, "max_num_seqs"),),
        )
    cache, length = engine.kv_cache_tokens, engine.max_model_len
    if cache is not None and length is not None and cache < length:
        yield Finding(
            (*_ENGINE, "kv_cache_tokens"),
            f"less than max_model_len ({length}): the longest request would not fit",
            str(cache),
            f"at least {length}",
            uses=((*_ENGINE, "max_model_len"),),
        )


def _attention(engine: EngineSpec) -> Iterator[Finding]:
    if engine.attention == "flex" and engine.device == "cpu":
        yield Finding(
            (*_ENGINE, "attention"),
            "flex attention needs a GPU, and serve.engine.device is cpu",
            "flex",
            "auto, gather",
            uses=((*_ENGINE, "device"),),
        )


def _model_length(spec: RunSpec, engine: EngineSpec) -> Iterator[Finding]:
    positions = integer_of(spec.model.config or {}, POSITIONS)
    if positions is None or engine.max_model_len is None or engine.max_model_len <= positions[1]:
        return
    yield Finding(
        (*_ENGINE, "max_model_len"),
        f"greater than model.config.{positions[0]} ({positions[1]})",
        str(engine.max_model_len),
        f"at most {positions[1]}",
        uses=(("model", "config", positions[0]),),
    )
