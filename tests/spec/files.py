"""Small specs that tests start from."""

from __future__ import annotations

from typing import Any

from fastserve_ray.errors import Problem, SpecError
from fastserve_ray.spec.load import parse_spec, spec_from_dict


def full() -> dict[str, Any]:
    """A legal file with every section, text generation from scratch."""
    return {
        "name": "full",
        "model": {
            "config": {
                "model_type": "llama",
                "hidden_size": 64,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "num_hidden_layers": 2,
                "intermediate_size": 128,
                "max_position_embeddings": 128,
            },
            "tokenizer": {"vocab_size": 512},
        },
        "data": {"train": {"kind": "python-docs"}, "max_length": 64},
        "train": {"batch_size": 8, "parallel": {"workers": 2}},
        "tune": {"parameters": {"train.learning_rate": {"space": "loguniform", "lower": 1e-5, "upper": 1e-3}}},
        "compress": [{"kind": "prune", "sparsity": 0.5}, {"kind": "quantize"}],
        "verify": {"max_drop": {"eval_loss": 0.1}},
        "serve": {"port": 0},
    }


def classifier() -> dict[str, Any]:
    """A legal file that fine-tunes a classifier."""
    return {
        "name": "classifier",
        "model": {"task": "text-classification", "base": "some-encoder"},
        "data": {"train": {"path": "train.parquet"}, "columns": {"text": "sentence"}},
        "train": {"batch_size": 8},
    }


def problems_of(data: dict[str, Any]) -> dict[str, Problem]:
    """Problems by key; empty for a legal file."""
    try:
        spec_from_dict(data)
    except SpecError as error:
        return {problem.key: problem for problem in error.problems}
    return {}


def problems_in(text: str, *sets: str, env: dict[str, str] | None = None) -> tuple[Problem, ...]:
    """Problems of YAML text."""
    try:
        parse_spec(text, file="app.yaml", sets=sets, env=env or {})
    except SpecError as error:
        return error.problems
    return ()
