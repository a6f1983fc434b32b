from __future__ import annotations

from fastserve_ray.remote.inside import is_job, joined, notes
from fastserve_ray.spec.load import spec_from_dict

SPEC = {
    "name": "tiny",
    "storage": "./runs",
    "cluster": {"num_cpus": 2, "num_gpus": 0, "object_store_memory_mb": 100, "memory_mb": 4000},
    "model": {"base": "tiny"},
    "serve": {},
}


def test_a_job_is_what_ray_has_started() -> None:
    assert is_job({"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}", "RAY_ADDRESS": "10.0.0.1:6379"})
    assert not is_job({"RAY_ADDRESS": "10.0.0.1:6379"})
    assert not is_job({})


def test_a_job_joins_the_ray_that_runs_it() -> None:
    spec = spec_from_dict(SPEC)
    cluster = joined(spec).cluster
    assert cluster.address == "auto"
    assert (cluster.num_cpus, cluster.num_gpus, cluster.object_store_memory_mb) == (None, None, None)
    assert cluster.memory_mb == 4000


def test_a_job_says_what_is_not_as_the_file_has_it() -> None:
    joins, storage = notes(spec_from_dict(SPEC))
    assert "cluster.address: local" in joins
    assert "storage ./runs is in the job's own folder" in storage
    silent = {**SPEC, "storage": "s3://bucket/runs", "cluster": {"address": "auto"}}
    assert notes(spec_from_dict(silent)) == []
