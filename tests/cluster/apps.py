"""Files to render, and how they are read back."""

from __future__ import annotations

from typing import Any

import yaml

from fastserve_ray.cluster.table import render
from fastserve_ray.spec.load import spec_from_dict

CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 128,
}
CLUSTER: dict[str, Any] = {
    "max_workers": 6,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"CPU": 4, "memory": "16Gi"}},
        "gpu": {
            "resources": {"CPU": 16, "GPU": 8, "memory": "96Gi", "custom": {"fast_disk": 2}},
            "min_workers": 1,
            "max_workers": 4,
            "node_config": {"InstanceType": "p4d.24xlarge"},
            "labels": {"disk": "fast"},
            "image": "registry.example.org/fastserve:1-cuda",
            "node_selector": {"cloud.example.org/gpu": "a100"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
        "cpu": {"resources": {"CPU": 8, "memory": "30Gi"}, "max_workers": 4},
    },
    "autoscaler": {"idle_timeout_s": 300, "upscaling_mode": "Conservative"},
    "runtime_env": {"pip": ["left-pad==1"], "env_vars": {"LANG": "C.UTF-8"}},
    "image": "registry.example.org:5000/fastserve:1",
    "secrets": {
        "HF_TOKEN": {"name": "hub", "key": "token", "file": "/etc/fastserve/hub token"},
        "REDIS_PASSWORD": {"name": "redis", "file": "/etc/fastserve/redis"},
    },
    "fault_tolerance": {
        "redis_address": "redis:6379",
        "redis_username": "ray",
        "redis_password": "REDIS_PASSWORD",
        "external_storage_namespace": "films",
    },
    "provider": {"type": "aws", "region": "eu-central-1"},
    "auth": {"ssh_user": "ubuntu"},
    "setup_commands": ["echo ready"],
    "kubernetes": {
        "namespace": "ml",
        "service_account": "trainer",
        "image_pull_secrets": ["registry"],
        "cache_claim": "models",
        "volumes": [{"claim": "data", "path": "/data", "read_only": True}],
        "run_as_user": 2000,
    },
}
"""With every key of ``cluster`` that is rendered."""


def app(**sections: Any) -> dict[str, Any]:
    """A legal file that trains and serves; ``None`` leaves a section out."""
    data: dict[str, Any] = {
        "name": "film.reviews",
        "storage": "s3://bucket/runs",
        "cluster": CLUSTER,
        "model": {"config": CONFIG, "tokenizer": {"vocab_size": 512}},
        "data": {"train": {"path": "s3://bucket/train.parquet"}, "max_length": 64},
        "train": {"batch_size": 8, "parallel": {"workers": 8}, "resources_per_worker": {"CPU": 2, "GPU": 1}},
        "serve": {"autoscaling_config": {"min_replicas": 0, "max_replicas": 4}},
        **sections,
    }
    return {name: section for name, section in data.items() if section is not None}


def documents(target: str, data: dict[str, Any] | None = None, model: str | None = None) -> list[dict[str, Any]]:
    """What is rendered, read back."""
    text = render(target, spec_from_dict(app() if data is None else data), model)
    return list(yaml.safe_load_all(text))


def document(target: str, data: dict[str, Any] | None = None, model: str | None = None) -> dict[str, Any]:
    """The last document, which is the object itself."""
    return documents(target, data, model)[-1]
