from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import ArtifactError, ModelError
from fastserve_ray.serve.app import ServeTarget, deployment_name
from fastserve_ray.serve.auth.access import Access
from fastserve_ray.serve.source import ModelSource
from fastserve_ray.serve.targets import further_targets, with_shares, with_version
from fastserve_ray.spec.keys import ApiKey, hash_of
from fastserve_ray.spec.serve import AutoscalingSpec, EngineSpec, FurtherModelSpec, SchedulerSpec, ServeSpec

if TYPE_CHECKING:
    from pathlib import Path


def test_a_further_model_is_served_like_the_first_where_it_says_nothing_else(tmp_path: Path) -> None:
    further = FurtherModelSpec(base=str(tmp_path), task="text-classification", engine=EngineSpec(max_num_seqs=4))
    spec = ServeSpec(
        model_name="first",
        request_timeout_s=7.0,
        autoscaling_config=AutoscalingSpec(max_replicas=3),
        models={"judge": further, "hub": FurtherModelSpec(base="org/model", revision="v2")},
    )
    judge, hub = further_targets(spec, None)
    assert (judge.name, judge.task, judge.source.reference) == ("judge", "text-classification", str(tmp_path))
    assert judge.spec.engine.max_num_seqs == 4
    assert judge.spec.request_timeout_s == 7.0
    assert judge.spec.autoscaling_config.max_replicas == 3
    assert judge.spec.models == {}
    assert (hub.source.reference, hub.source.revision) == ("org/model", "v2")
    assert hub.spec.engine == spec.engine


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    def served(base: str) -> ServeSpec:
        return ServeSpec(models={"m": FurtherModelSpec(base=base)})

    with pytest.raises(ModelError, match="no such model") as missing:
        further_targets(served("./nothing"), None)
    assert missing.value.key == "serve.models.m.base"
    with pytest.raises(ArtifactError):
        further_targets(served("run@train"), str(tmp_path))
    with pytest.raises(ArtifactError, match="storage"):
        further_targets(served("run@train"), None)


def test_names_of_deployments_differ_as_models_do() -> None:
    names = ["org/a", "org-a", "a" * 80, "a" * 81, "ü"]
    assert len({deployment_name(name) for name in names}) == len(names)
    assert deployment_name("org/a") == deployment_name("org/a")


def test_a_version_changes_with_what_a_replica_is_started_with(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    def version(reference: str = str(tmp_path), revision: str | None = None, **spec: Any) -> str | None:
        target = ServeTarget(ModelSource(reference, None, revision), "text-generation", "m", ServeSpec(**spec))
        return with_version(target).version

    first = version()
    assert first == version(request_timeout_s=3.0, port=1)
    assert version("org/model") is None
    different = [first, version(engine=EngineSpec(max_num_seqs=3)), version("artifact:a"), version("artifact:b")]
    different.append(version("org/model", "v1"))
    (tmp_path / "config.json").write_text("{ }")
    different.append(version())
    assert len(set(different)) == len(different)


def test_with_keys_the_engine_is_fair_unless_told_otherwise() -> None:
    access = Access((ApiKey(name="a", sha256=hash_of("a"), weight=2.0), ApiKey(name="b", sha256=hash_of("b"))))

    def scheduler(access: Access, **scheduler: Any) -> SchedulerSpec:
        spec = ServeSpec(engine=EngineSpec(scheduler=SchedulerSpec(**scheduler)))
        target = ServeTarget(ModelSource("m"), "text-generation", "m", spec)
        return with_shares(target, access).spec.engine.scheduler

    assert scheduler(access).policy == "fair"
    assert scheduler(access) == scheduler(Access(access.keys[:1] if access.keys else ())), (
        "other keys, the same replicas"
    )
    assert scheduler(access, weights={"a": 5.0}).weights == {"a": 5.0}
    assert scheduler(access, policy="srpt").policy == "srpt"
    assert scheduler(Access()).policy == "fcfs"
