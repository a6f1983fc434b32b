from __future__ import annotations

import pytest

from fastserve_ray.plan.architecture import read_architecture
from fastserve_ray.plan.memory import activation_bytes, estimate_memory, kv_cache_bytes, training_bytes
from fastserve_ray.spec import TrainSpec
from fastserve_ray.spec.load import spec_from_dict, with_overrides
from tests.spec.files import classifier, full

GIGA = 10**9


@pytest.mark.parametrize(
    ("zero", "precision", "gigabytes"),
    [
        (0, "fp32", (4, 4, 8)),
        (0, "bf16", (4, 4, 8)),
        (1, "fp32", (4, 4, 3)),
        (2, "fp32", (4, 1, 3)),
        (3, "fp32", (1, 1, 3)),
        (1, "bf16", (2, 2, 3)),
        (2, "bf16", (2, 0.5, 3)),
        (3, "bf16", (0.5, 0.5, 3)),
    ],
)
def test_the_table_of_the_zero_paper_for_four_workers(
    zero: int, precision: str, gigabytes: tuple[float, float, float]
) -> None:
    sizes = training_bytes(GIGA, workers=4, zero=zero, precision=precision)
    assert sizes == tuple(round(size * GIGA) for size in gigabytes)


def test_the_papers_own_example() -> None:
    """Figure 1: 7.5 B parameters, 64 workers: 120 GB without, 31.4, 16.6 and 1.9 GB with stages 1, 2 and 3."""
    for zero, gigabytes in ((1, 31.4), (2, 16.6), (3, 1.9)):
        total = sum(training_bytes(7_500_000_000, workers=64, zero=zero, precision="bf16"))
        assert total / GIGA == pytest.approx(gigabytes, abs=0.06)


def test_activations_follow_the_formula() -> None:
    model = read_architecture({"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "vocab_size": 100})
    assert model is not None
    half, full_precision = TrainSpec(precision="bf16"), TrainSpec()
    s, b, h, a = 10, 2, 64, 4
    layer = s * b * h * (34 + 5 * a * s / h)
    assert activation_bytes(model, batch=b, length=s, train=half, has_logits=False) == 3 * layer
    layer = s * b * h * (66 + 9 * a * s / h)
    logits = s * b * 100 * 8
    assert activation_bytes(model, batch=b, length=s, train=full_precision, has_logits=True) == 3 * layer + logits
    sparing = TrainSpec(gradient_checkpointing=True)
    kept = activation_bytes(model, batch=b, length=s, train=sparing, has_logits=False)
    assert kept == layer + 3 * s * b * h * 4


def test_the_kv_cache_counts_heads_that_are_kept() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3}
    model = read_architecture({**config, "num_key_value_heads": 2})
    assert model is not None
    assert kv_cache_bytes(model, tokens=10, width=4) == 2 * 3 * 2 * 16 * 4 * 10


def test_a_spec_is_estimated_by_stage() -> None:
    tune, train, serve = estimate_memory(spec_from_dict(full()))
    assert (tune.stage, train.stage, serve.stage) == ("tune", "train", "serve")
    assert train.parameters is not None
    assert train.optimizer == 2 * train.parameters
    assert train.total == train.parameters * 4 + (train.activations or 0)
    assert (tune.activations or 0) == 2 * (train.activations or 0), "one worker has the whole batch"
    assert serve.kv_cache == 2 * 2 * 2 * 16 * 4 * 16 * 128
    assert serve.parameters is not None
    assert serve.parameters < train.parameters


def test_zero_and_more_workers_take_less() -> None:
    spec = with_overrides(spec_from_dict(full()), {"tune": None})
    totals = []
    for zero in (1, 2, 3):
        changed = with_overrides(spec, {"train.parallel.zero": zero})
        totals.append(estimate_memory(changed)[0].total or 0)
    assert totals[0] > totals[1] > totals[2] > 0


def test_what_is_unknown_stays_unknown_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    (train,) = estimate_memory(spec_from_dict(classifier()))
    assert train.parameters is None
    assert train.total is None
    assert "some-encoder" in (train.reason or "")
