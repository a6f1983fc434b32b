from __future__ import annotations

from typing import Any

import pytest

from tests.spec.files import classifier, full, problems_of

Change = dict[str, Any]


def changed(data: dict[str, Any], changes: Change) -> dict[str, Any]:
    """Set dotted keys; None as a value deletes."""
    for key, value in changes.items():
        holder: Any = data
        *parents, last = key.split("/")
        for part in parents:
            holder = holder[int(part)] if isinstance(holder, list) else holder.setdefault(part, {})
        if isinstance(holder, list):
            holder[int(last)] = value
        elif value is None:
            del holder[last]
        else:
            holder[last] = value
    return data


def choice(*values: object) -> dict[str, Any]:
    return {"space": "choice", "categories": list(values)}


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"model/base": "gpt2"}, "model.config", "both given"),
        ({"model/config": None, "model/tokenizer": None}, "model", "neither `base` nor `config`"),
        ({"model/config/model_type": None}, "model.config.model_type", "required"),
        ({"model/config": None, "model/base": "gpt2"}, "model.tokenizer", "brings its own tokenizer"),
        ({"model/revision": "main"}, "model.revision", "no `base`"),
        ({"serve/shards": {"pipeline": 2}}, "serve.shards.pipeline", "not cut between its layers"),
        ({"serve/shards": {"tensor": 3}}, "serve.shards.tensor", "does not divide num_attention_heads (4)"),
        (
            {"serve/shards": {"tensor": 2}, "model/config/model_type": "mixtral"},
            "serve.shards.tensor",
            "models of type mixtral have no plan",
        ),
        (
            {"serve/shards": {"tensor": 2}, "serve/engine": {"attention": "flex"}},
            "serve.engine.attention",
            "no flex attention",
        ),
        (
            {"serve/shards": {"tensor": 2}, "serve/engine": {"int8_output_layer": True}},
            "serve.engine.int8_output_layer",
            "as it is stored",
        ),
        ({"model/num_labels": 2}, "model.num_labels", "no labels"),
        ({"model/config/vocab_size": 1000}, "model.config.vocab_size", "512"),
        ({"model/tokenizer": None, "model/config/vocab_size": 512}, "model.config.vocab_size", "4096 (its default)"),
        ({"model/config/hidden_size": 66}, "model.config.hidden_size", "not divisible by num_attention_heads (4)"),
        ({"model/config/hidden_size": "64"}, "model.config.hidden_size", "wrong type"),
        ({"model/config/num_key_value_heads": 3}, "model.config.num_key_value_heads", "does not divide"),
        ({"model/config/max_position_embeddings": 32}, "model.config.max_position_embeddings", "data.max_length (64)"),
        ({"data/columns": {"prompt": "p"}}, "data.columns.completion", "missing beside `prompt`"),
        ({"data/columns": {"prompt": "p", "completion": "c", "messages": "m"}}, "data.columns.messages", "given too"),
        ({"data/columns": {"input": "i"}}, "data.columns.input", "no `prompt`"),
        ({"data/columns": {"messages": "m"}}, "data.train.kind", "no conversations"),
        (
            {"data/columns": {"messages": "m"}, "data/train": {"path": "a.txt"}},
            "data.train.path",
            "plain text has no conversations",
        ),
        ({"model/chat_template": "{{ messages }}", "train": None}, "model.chat_template", "nothing is trained"),
        ({"train": None, "tune": None}, "model.config", "needs `train`"),
        ({"train": None}, "tune", "needs `train`"),
        ({"data": None}, "train", "needs `data`"),
        ({"data": None}, "compress", "needs `data`"),
        ({"data": None}, "verify", "needs `data`"),
        ({"train/batch_size": 9}, "train.batch_size", "2 x 1 = 2"),
        ({"train/gradient_accumulation_steps": 3}, "train.batch_size", "2 x 3 = 6"),
        ({"train/precision": "fp16"}, "train.precision", "needs a GPU"),
        (
            {
                "train/precision": "fp16",
                "train/resources_per_worker": {"GPU": 1},
                "train/parallel": {"workers": 2, "pipeline": 2},
            },
            "train.precision",
            "does not go with parallel.pipeline",
        ),
        ({"train/max_steps": 10, "train/eval_every_steps": 11}, "train.eval_every_steps", "train.max_steps (10)"),
        ({"train/resources_per_worker": {"GPU": 1.5}}, "train.resources_per_worker.GPU", "whole number"),
        ({"train/parallel/zero": 2, "train/parallel/pipeline": 2}, "train.parallel.zero", "go with pipeline: 2"),
        (
            {"train/parallel": {"zero": 2, "pipeline": 2, "tensor": 2}},
            "train.parallel.zero",
            "does not go with pipeline: 2",
        ),
        (
            {"train/parallel": {"workers": 2, "pipeline": 2, "tensor": 3}},
            "train.parallel.tensor",
            "does not divide num_attention_heads (4)",
        ),
        (
            {"cluster/num_cpus": 7, "train/parallel": {"workers": 2, "pipeline": 2, "tensor": 2}},
            "train.parallel.workers",
            "8 x 1 CPU is more than cluster.num_cpus (7)",
        ),
        (
            {"train/parallel/zero": 0, "train/parallel/offload": "cpu"},
            "train.parallel.offload",
            "only what ZeRO splits",
        ),
        (
            {"train/parallel": {"workers": 2, "offload": "nvme", "offload_folder": "/mnt"}},
            "train.parallel.offload",
            "only what ZeRO splits",
        ),
        (
            {"train/parallel": {"workers": 2, "zero": 1, "offload": "nvme"}},
            "train.parallel.offload_folder",
            "offload: nvme needs it",
        ),
        ({"train/parallel/balance_stages": "time"}, "train.parallel.balance_stages", "there is one stage"),
        ({"train/parallel/offload_folder": "/mnt"}, "train.parallel.offload_folder", "nothing goes there"),
        (
            {"train/parallel/offload": "cpu", "train/parallel/tensor": 2},
            "train.parallel.offload",
            "does not go with tensor",
        ),
        ({"train/balance": "measured", "train/parallel/tensor": 2}, "train.balance", "does not go with tensor"),
        (
            {"train/balance": "measured", "train/parallel/zero": 1, "train/resources_per_worker/GPU": 1},
            "train.balance",
            "does not go with zero on GPUs",
        ),
        ({"train/parallel/tensor": 3}, "train.parallel.tensor", "does not divide num_attention_heads (4)"),
        (
            {"train/parallel": {"workers": 2, "pipeline": 3}},
            "train.parallel.pipeline",
            "more stages than num_hidden_layers (2)",
        ),
        (
            {"model/config/model_type": "distilbert", "train/parallel/tensor": 2},
            "train.parallel.tensor",
            "models of type distilbert have no plan",
        ),
        (
            {"cluster/num_cpus": 3, "train/parallel/tensor": 2},
            "train.parallel.workers",
            "4 x 1 CPU is more than cluster.num_cpus (3)",
        ),
        ({"tune/metric": "eval_los"}, "tune.metric", "no such metric"),
        ({"tune/metric": "eval_loss", "tune/goal": "maximize"}, "tune.goal", "wrong way"),
        ({"tune/workers_per_trial": 3}, "tune.workers_per_trial", "not divisible"),
        ({"tune/max_steps": 5, "tune/eval_every_steps": 6}, "tune.eval_every_steps", "tune.max_steps (5)"),
        ({"compress/0/threshold": 0.1}, "compress.0.threshold", "both given"),
        ({"compress/0/sparsity": None}, "compress.0", "neither `sparsity` nor `threshold`"),
        ({"compress/0": {"kind": "prune", "threshold": 0.1, "scope": "global"}}, "compress.0.scope", "same for every"),
        ({"compress/0": {"kind": "quantize"}}, "compress.0", "followed by another step"),
        ({"verify/max_drop": {"eval_f1": 0.1}}, "verify.max_drop.eval_f1", "no such metric"),
        ({"serve/autoscaling_config/min_replicas": 2}, "serve.autoscaling_config.min_replicas", "max_replicas (1)"),
        ({"serve/autoscaling_config/initial_replicas": 2}, "serve.autoscaling_config.initial_replicas", "out of range"),
        (
            {"serve/autoscaling_config/target_ongoing_requests": 65},
            "serve.autoscaling_config.target_ongoing_requests",
            "max_ongoing_requests (64)",
        ),
        (
            {"serve/autoscaling_config": {"target_ongoing_requests": 8.0, "target_outstanding_tokens": 100.0}},
            "serve.autoscaling_config.target_ongoing_requests",
            "not used beside",
        ),
        (
            {"serve/autoscaling_config": {"metrics_interval_s": 5.0, "look_back_period_s": 5.0}},
            "serve.autoscaling_config.look_back_period_s",
            "metrics_interval_s (5)",
        ),
        ({"serve/router": {"kind": "power-of-two", "max_skew": 2.0}}, "serve.router.max_skew", "router power-of-two"),
        ({"serve/router": {"options": {"a": 1}}}, "serve.router.options", "not used by router prefix-load"),
        ({"serve/router": {"kind": "a.b:C", "slack_tokens": 2.0}}, "serve.router.slack_tokens", "not used by router"),
        ({"serve/engine/max_num_batched_tokens": 8}, "serve.engine.max_num_batched_tokens", "max_num_seqs (16)"),
        ({"serve/weights": {"stream": True}}, "serve.weights.stream", "from the weight store"),
        (
            {"serve/weights": {"store": "on", "stream": True}, "serve/shards": {"tensor": 2}},
            "serve.weights.stream",
            "a sharded replica",
        ),
        ({"serve/weights": {"store": "off", "shards": 2}}, "serve.weights.shards", "no weight store"),
        (
            {"serve/weights": {"store": "on", "stream": True}, "serve/resources_per_replica": {"GPU": 1}},
            "serve.weights.stream",
            "to CPUs only",
        ),
        ({"serve/engine/attention": "flex", "serve/engine/device": "cpu"}, "serve.engine.attention", "needs a GPU"),
        ({"model/task": "masked-lm"}, "serve", "no endpoint"),
        ({"serve/models": {"run": {"base": "x"}}, "name": "run"}, "serve.models.run", "the run's own model"),
        (
            {"serve/models": {"b": {"base": "x", "engine": {"max_num_batched_tokens": 8}}}},
            "serve.models.b.engine.max_num_batched_tokens",
            "max_num_seqs (16)",
        ),
        (
            {"serve/models": {"b": {"base": "x", "task": "text-embedding", "shards": {"tensor": 2}}}},
            "serve.models.b.shards.tensor",
            "served whole",
        ),
        ({"serve/models": {"b": {"base": "x", "task": "masked-lm"}}}, "serve.models.b", "no endpoint"),
        (
            {"serve/models": {"b": {"base": "x"}, "c": {"base": "x"}}, "cluster/num_cpus": 2},
            "serve.models",
            "more CPUs than cluster.num_cpus (2)",
        ),
        ({"model/task": "text-embedding"}, "train", "not for text-embedding"),
        ({"serve/engine/max_model_len": 129}, "serve.engine.max_model_len", "max_position_embeddings (128)"),
        (
            {"serve/engine/max_model_len": 100, "serve/engine/kv_cache_tokens": 99},
            "serve.engine.kv_cache_tokens",
            "max_model_len (100)",
        ),
        ({"serve/resources_per_replica": {"GPU": 2.5}}, "serve.resources_per_replica.GPU", "whole number"),
        ({"cluster/num_cpus": 1}, "train.parallel.workers", "2 x 1 CPU is more than cluster.num_cpus (1)"),
        (
            {"cluster/num_gpus": 0, "serve/resources_per_replica": {"GPU": 1}},
            "serve.autoscaling_config.min_replicas",
            "GPU",
        ),
        ({"cluster": {"address": "auto", "num_cpus": 4}}, "cluster.num_cpus", "already runs"),
    ],
)
def test_illegal_mixes(changes: Change, key: str, words: str) -> None:
    problems = problems_of(changed(full(), changes))
    assert key in problems, problems
    assert words in problems[key].message
    assert problems[key].allowed


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        ({"data/train": {"kind": "python-docs"}}, "data.train.kind", "no labels"),
        ({"data/columns": {"messages": "m"}}, "data.columns.messages", "not for text-classification"),
        ({"model/chat_template": "x"}, "model.chat_template", "has no conversations"),
        ({"data/train": {"path": "a.txt"}}, "data.train.path", "no label column"),
        ({"data/validation": {"path": "a.csv", "format": "text"}}, "data.validation.path", "no label column"),
        ({"data/columns/label": "sentence"}, "data.columns", "same column"),
        ({"serve/engine/int8_output_layer": True}, "serve.engine.int8_output_layer", "no output layer"),
        ({"serve/weights": {"store": "on", "stream": True}}, "serve.weights.stream", "only layers of generation"),
        ({"verify/max_drop": {"eval_perplexity": 1}}, "verify.max_drop.eval_perplexity", "no such metric"),
    ],
)
def test_illegal_mixes_of_a_classifier(changes: Change, key: str, words: str) -> None:
    problems = problems_of(changed(classifier(), changes))
    assert list(problems) == [key]
    assert words in problems[key].message


def test_nothing_to_do() -> None:
    problems = problems_of({"name": "a", "model": {"base": "gpt2"}})
    assert "nothing to do" in problems[""].message


@pytest.mark.parametrize(
    "changes",
    [
        {"model/config/hidden_size": 66, "model/config/head_dim": 16},
        {"model/config/vocab_size": 512},
        {"model/tokenizer": "./some-tokenizer", "model/config/vocab_size": 9},
        {"cluster": {"num_cpus": 2}},
        {"cluster": {"address": "auto"}},
        {"serve/autoscaling_config": {"min_replicas": 0, "max_replicas": 3, "initial_replicas": 2}},
        {"serve/autoscaling_config": {"max_replicas": 3, "target_outstanding_tokens": 500.0}},
        {"serve/router": {"kind": "a.b:C", "options": {"limit": 3}}},
        {"compress": []},
        {"train/resources_per_worker": {"GPU": 0.5}},
        {"train/parallel": {"workers": 2, "zero": 2, "tensor": 2}},
        {"train/parallel": {"workers": 2, "zero": 3, "tensor": 2}},
        {"train/parallel": {"workers": 2, "zero": 1, "pipeline": 2, "schedule": "gpipe"}},
        {"train/parallel": {"workers": 2, "zero": 1, "pipeline": 2, "tensor": 2}},
        {"train/parallel": {"workers": 2, "zero": 3, "offload": "cpu"}},
        {"train/parallel": {"workers": 2, "zero": 2, "offload": "nvme", "offload_folder": "/mnt"}},
    ],
)
def test_legal_mixes(changes: Change) -> None:
    assert problems_of(changed(full(), changes)) == {}


@pytest.mark.parametrize(
    ("name", "space", "words", "nearest"),
    [
        ("train.learnin_rate", choice(1e-4), "no such key", "train.learning_rate"),
        ("learning_rate", choice(1e-4), "not a key that can be tuned", "train.learning_rate"),
        ("serve.port", choice(1), "not a key that can be tuned", None),
        ("train", choice(1), "not a key that can be tuned", None),
        ("train.parallel", choice(1), "whole section", None),
        ("compress.0.sparsty", choice(0.5), "no such key", "compress.0.sparsity"),
        ("compress.1.sparsity", choice(0.5), "no such key", "compress.0.sparsity"),
        ("compress.2.sparsity", choice(0.5), "no such key", "compress.0.sparsity"),
        ("compress.x.sparsity", choice(0.5), "no such key", "compress.0.sparsity"),
        ("compress.0.sparsity", choice(0.5, 1.5), "out of range", None),
        ("train.batch_size", {"space": "uniform", "lower": 1, "upper": 8}, "wrong type", None),
        ("train.batch_size", choice(8, 9), "not divisible", None),
        ("train.precision", choice("fp32", "fp61"), "not an allowed value", None),
        ("model.config.num_attention_heads", choice(4, 5), "model.config.hidden_size would be wrong", None),
        ("train.learning_rate", {"space": "uniform", "lower": -1, "upper": 1}, "out of range", None),
    ],
)
def test_tuned_paths_must_exist_and_take_the_values(
    name: str, space: dict[str, Any], words: str, nearest: str | None
) -> None:
    problems = problems_of(changed(full(), {"tune/parameters": {name: space}}))
    assert list(problems) == [f"tune.parameters.{name}"]
    problem = problems[f"tune.parameters.{name}"]
    assert words in problem.message
    if nearest is not None:
        assert problem.nearest == nearest


def test_a_tuned_config_needs_a_config() -> None:
    data = changed(classifier(), {"tune": {"parameters": {"model.config.hidden_size": choice(64)}}})
    assert "no model.config" in problems_of(data)["tune.parameters.model.config.hidden_size"].message


def test_two_tuned_keys_that_depend_on_each_other_are_left_to_the_trials() -> None:
    parameters = {
        "model.config.num_attention_heads": choice(4, 6),
        "model.config.hidden_size": choice(96, 192),
        "model.config.num_key_value_heads": choice(2),
    }
    assert problems_of(changed(full(), {"tune/parameters": parameters})) == {}


@pytest.mark.parametrize("space", ["uniform", "loguniform", "randint"])
def test_lower_must_be_less_than_upper(space: str) -> None:
    data = changed(full(), {"tune/parameters": {"train.seed": {"space": space, "lower": 5, "upper": 5}}})
    assert "not less than upper" in problems_of(data)["tune.parameters.train.seed.lower"].message


def test_grid_search_goes_with_the_grid_and_with_nothing_else() -> None:
    grid = {"space": "grid_search", "values": [1, 2]}
    key = "tune.parameters.train.seed.space"
    assert problems_of(changed(full(), {"tune/parameters": {"train.seed": grid}}))[key].value == "grid_search"
    legal = changed(full(), {"tune/search_alg": "grid", "tune/parameters": {"train.seed": grid}})
    assert problems_of(legal) == {}
    mixed = changed(full(), {"tune/search_alg": "grid", "tune/parameters": {"train.seed": choice(1, 2)}})
    assert problems_of(mixed)[key].allowed == "grid_search"


def test_field_errors_and_mixes_come_in_one_go() -> None:
    data = changed(
        full(), {"train/learning_rate": -1, "train/batch_size": 9, "serve/autoscaling_config/min_replicas": 2}
    )
    assert set(problems_of(data)) == {
        "train.learning_rate",
        "train.batch_size",
        "serve.autoscaling_config.min_replicas",
    }
