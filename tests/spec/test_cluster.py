"""``cluster``: nodes, their room, and what a cluster's processes are given."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import dump_spec, spec_from_dict
from fastserve_ray.spec.nodes import bytes_of
from fastserve_ray.spec.schema import json_schema
from tests.spec.files import full, problems_of

HEAD = {"resources": {"CPU": 4}}
WORKER = {"resources": {"CPU": 8, "GPU": 2}, "max_workers": 3}
GPU_WORKER = {"CPU": 2, "GPU": 1}


def nodes(**changes: Any) -> dict[str, Any]:
    """A legal description of a head and up to three workers of 8 CPU and 2 GPU."""
    return {"head_node_type": "head", "available_node_types": {"head": HEAD, "worker": WORKER}, **changes}


def with_cluster(cluster: dict[str, Any], **sections: Any) -> dict[str, Any]:
    data = full()
    for name, changes in sections.items():
        data[name] = {**data[name], **changes}
    return {**data, "cluster": cluster}


@pytest.mark.parametrize(
    "address", ["local", "auto", "http://head:8265", "https://ray.example.org", "http://head:8265/"]
)
def test_addresses(address: str) -> None:
    assert problems_of(with_cluster({"address": address})) == {}


@pytest.mark.parametrize("address", ["ray://head:10001", "head:6379", "http://", "httpx://a"])
def test_other_addresses_are_refused_with_the_way_to_go(address: str) -> None:
    problem = problems_of(with_cluster({"address": address}))["cluster.address"]
    assert "http(s)://HEAD:8265" in str(problem.allowed)
    assert "Ray Client" in str(problem.allowed)


@pytest.mark.parametrize(
    "cluster",
    [
        nodes(),
        nodes(address="auto", max_workers=2),
        {"head_node_type": "head", "available_node_types": {"head": HEAD}},
        nodes(
            runtime_env={"pip": ["a==1"], "env_vars": {"A": "b"}, "working_dir": "."},
            image="registry.example.org/fastserve:1",
            secrets={"HF_TOKEN": {"name": "hub", "key": "token", "file": "/etc/hub"}, "REDIS": {"name": "redis"}},
            fault_tolerance={"redis_address": "rediss://redis:6379", "redis_password": "REDIS"},
            provider={"type": "aws", "region": "eu-central-1"},
            autoscaler={"idle_timeout_s": 300, "upscaling_mode": "Conservative", "version": "v1"},
            kubernetes={"namespace": "ml", "shm_size": "4Gi", "volumes": [{"claim": "runs", "path": "/shared"}]},
        ),
    ],
)
def test_legal_descriptions(cluster: dict[str, Any]) -> None:
    data = with_cluster(cluster)
    assert problems_of(data) == {}
    assert list(Draft202012Validator(json_schema()).iter_errors(data)) == []
    spec = spec_from_dict(data)
    assert spec_from_dict(dump_spec(spec)) == spec


@pytest.mark.parametrize(
    ("cluster", "key", "words"),
    [
        ({"head_node_type": "head"}, "cluster.head_node_type", "no node types"),
        ({"available_node_types": {"head": HEAD}}, "cluster.available_node_types", "no type is that of the head"),
        (nodes(head_node_type="hed"), "cluster.head_node_type", "no such node type"),
        (nodes(num_cpus=4), "cluster.num_cpus", "size of an embedded Ray"),
        (nodes(address="auto", num_cpus=4), "cluster.num_cpus", "a Ray that already runs has its size"),
        (nodes(address="http://h:8265", num_gpus=1), "cluster.num_gpus", "a Ray that already runs has its size"),
        (nodes(max_workers=1, available_node_types={"head": HEAD, "worker": {**WORKER, "min_workers": 2}}),
         "cluster.max_workers", "min_workers of all types together (2)"),
        (nodes(available_node_types={"head": HEAD, "worker": {**WORKER, "min_workers": 4}}),
         "cluster.available_node_types.worker.min_workers", "its max_workers (3)"),
        (nodes(available_node_types={"head": HEAD, "worker": {"resources": {"CPU": 8}}}),
         "cluster.available_node_types.worker.max_workers", "no node of this type"),
        (nodes(available_node_types={"head": {**HEAD, "max_workers": 2}, "worker": WORKER}),
         "cluster.available_node_types.head.max_workers", "the head is one node"),
        ({"head_node_type": "head", "available_node_types": {"head": HEAD}, "work_on_head": False},
         "cluster.work_on_head", "no other node type"),
        (nodes(available_node_types={"head": HEAD, "my type": WORKER}),
         "cluster.available_node_types.my type", "right form"),
        ({"secrets": {"TOKEN": {}}}, "cluster.secrets.TOKEN", "where the secret is"),
        ({"secrets": {"TOKEN": {"file": "/a", "key": "b"}}}, "cluster.secrets.TOKEN.key", "no `name`"),
        ({"secrets": {"TOKEN": {"name": "a"}}, "runtime_env": {"env_vars": {"TOKEN": "hf_x"}}},
         "cluster.runtime_env.env_vars.TOKEN", "a secret too"),
        ({"fault_tolerance": {"redis_address": "r:6379", "redis_password": "P"}},
         "cluster.fault_tolerance.redis_password", "no such secret"),
        ({"fault_tolerance": {"redis_address": "redis"}}, "cluster.fault_tolerance.redis_address", "right form"),
        ({"kubernetes": {"volumes": [{"claim": "a", "path": "/m"}, {"claim": "b", "path": "/m/"}]}},
         "cluster.kubernetes.volumes.1.path", "twice"),
        (nodes(available_node_types={"head": {"resources": {"CPU": 4, "memory": "8Gi"}}, "worker": WORKER},
               kubernetes={"shm_size": "8192Mi"}), "cluster.kubernetes.shm_size", "whole memory of a head node (8Gi)"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(cluster: dict[str, Any], key: str, words: str) -> None:
    problems = problems_of(with_cluster(cluster))
    assert list(problems) == [key]
    assert words in problems[key].message


@pytest.mark.parametrize(
    ("sections", "cluster", "key", "words"),
    [
        ({"train": {"batch_size": 7, "parallel": {"workers": 7}, "resources_per_worker": GPU_WORKER}}, {},
         "train.parallel.workers", "7 x (2 CPU + 1 GPU) is more than the nodes hold: 6 (2 on each of 3 worker)"),
        ({"train": {"parallel": {"workers": 4}, "resources_per_worker": GPU_WORKER}}, {"max_workers": 1},
         "train.parallel.workers", "hold: 2 (2 on each of 1 worker, with 1 nodes beside the head at most)"),
        ({"train": {"resources_per_worker": {"CPU": 1, "GPU": 3}}}, {},
         "train.resources_per_worker", "no node can hold 1 CPU + 3 GPU"),
        ({"train": {"resources_per_worker": {"CPU": 9}}}, {}, "train.resources_per_worker", "no node can hold 9 CPU"),
        ({"serve": {"resources_per_replica": {"CPU": 1, "GPU": 1}}},
         {"available_node_types": {"head": HEAD, "worker": {"resources": {"CPU": 8}, "min_workers": 1}}},
         "serve.resources_per_replica", "no node can hold 1 CPU + 1 GPU"),
        ({"serve": {"autoscaling_config": {"min_replicas": 7, "max_replicas": 8},
                    "resources_per_replica": GPU_WORKER}}, {},
         "serve.autoscaling_config.min_replicas", "7 x (2 CPU + 1 GPU)"),
        ({"serve": {"shards": {"tensor": 4}, "resources_per_replica": {"CPU": 8}}}, {},
         "serve.shards.tensor", "4 x (8 CPU) is more than the nodes hold: 3"),
        ({"serve": {"models": {"big": {"base": "x", "resources_per_replica": {"CPU": 9}}}}}, {},
         "serve.models.big.resources_per_replica", "no node can hold 9 CPU"),
        ({"serve": {"resources_per_replica": {"CPU": 8}, "models": {"b": {"base": "x"}, "c": {"base": "x"},
                                                                    "d": {"base": "x"}}}}, {},
         "serve.models", "more CPUs than all nodes have (24)"),
    ],
)  # fmt: skip
def test_more_than_the_nodes_hold(sections: dict[str, Any], cluster: dict[str, Any], key: str, words: str) -> None:
    problems = problems_of(with_cluster(nodes(**cluster), **sections))
    assert list(problems) == [key]
    assert words in problems[key].message
    assert problems[key].allowed


def test_as_many_bundles_as_the_nodes_hold_are_no_problem() -> None:
    train = {"batch_size": 6, "parallel": {"workers": 6}, "resources_per_worker": GPU_WORKER}
    assert problems_of(with_cluster(nodes(), train=train)) == {}


def test_the_head_offers_its_processors_where_it_is_alone_or_shall() -> None:
    alone = {"head_node_type": "head", "available_node_types": {"head": HEAD}}
    assert problems_of(with_cluster(alone, train={"parallel": {"workers": 4}})) == {}
    four = {"batch_size": 4, "parallel": {"workers": 4}, "resources_per_worker": {"CPU": 8}}
    large = {"head": {"resources": {"CPU": 8}}, "worker": WORKER}
    assert "train.parallel.workers" in problems_of(with_cluster(nodes(available_node_types=large), train=four))
    assert problems_of(with_cluster(nodes(available_node_types=large, work_on_head=True), train=four)) == {}


def test_a_file_with_an_error_elsewhere_is_not_told_of_room() -> None:
    data = with_cluster(nodes(max_workers=-1), train={"batch_size": 7, "parallel": {"workers": 7}})
    data["train"]["resources_per_worker"] = GPU_WORKER
    assert list(problems_of(data)) == ["cluster.max_workers"]


def test_the_description_of_the_cluster_is_in_no_digest() -> None:
    before, after = (
        plan_run(spec_from_dict(with_cluster(cluster)), fingerprint=lambda _: {})
        for cluster in ({}, nodes(address="auto", image="a:1", secrets={"A": {"name": "a"}}))
    )
    assert [stage.digest for stage in before.stages] == [stage.digest for stage in after.stages]


@pytest.mark.parametrize(
    ("cluster", "grows", "may_grow"),
    [
        (nodes(), True, False),
        (nodes(address="auto"), True, True),
        (
            nodes(address="auto", available_node_types={"head": HEAD, "worker": {**WORKER, "min_workers": 3}}),
            False,
            False,
        ),
        ({"address": "auto"}, False, False),
    ],
)
def test_only_a_cluster_that_is_joined_grows(cluster: dict[str, Any], grows: bool, may_grow: bool) -> None:
    found = spec_from_dict(with_cluster(cluster)).cluster
    assert (found.grows, found.may_grow) == (grows, may_grow)


def test_sizes() -> None:
    assert [bytes_of(text) for text in ("512Mi", "16Gi", "1Ti")] == [2**29, 2**34, 2**40]
