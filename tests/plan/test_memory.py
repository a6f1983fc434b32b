from __future__ import annotations

import pytest

from fastserve_ray.plan.activations import AUTOCAST, FULL, Activations, Batch, count_activations
from fastserve_ray.plan.architecture import Architecture, read_architecture
from fastserve_ray.plan.memory import estimate_memory, kv_cache_bytes, training_bytes
from fastserve_ray.plan.peak import States, training_peak
from fastserve_ray.plan.zero import Buffers
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


GPT2 = {"model_type": "gpt2", "n_embd": 64, "n_head": 4, "n_layer": 3, "vocab_size": 100}
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0}
BATCH = Batch(2, 10)


def test_activations_of_gpt2_follow_the_table() -> None:
    """4 h of the norms, 4 h and a sum a head of the attention, 5 f of the MLP, 16 bytes of statistics."""
    found = count_activations(architecture({**GPT2, **NO_DROPOUT}), BATCH, FULL)
    assert found.layers == 3 * 20 * (4 * (8 * 64 + 4 + 5 * 256) + 16)
    assert found.loss == 20 * 100 * 12
    assert found.peak == found.layers + found.outside + max(found.loss, found.working)


def test_dropout_keeps_bytes_on_a_gpu_and_scores_on_a_cpu() -> None:
    model = architecture(GPT2)
    plain = count_activations(architecture({**GPT2, **NO_DROPOUT}), BATCH, FULL).layers
    on_gpu = count_activations(model, BATCH, FULL, on_gpu=True).layers
    on_cpu = count_activations(model, BATCH, FULL).layers
    assert on_gpu - plain == 3 * 20 * 2 * 64
    assert on_cpu - plain == 3 * 20 * 4 * (2 * 64 + 3 * 4 * 10 - 4)


def test_checkpointing_keeps_the_input_of_each_layer() -> None:
    plain = count_activations(architecture(GPT2), BATCH, FULL)
    sparing = count_activations(architecture(GPT2), BATCH, FULL, is_checkpointed=True)
    assert sparing.layers == 3 * 20 * 64 * 4
    assert sparing.working == plain.working + plain.layers // 3


def test_a_mask_repeats_keys_and_values() -> None:
    config = {"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 1}
    model = architecture({**config, "num_key_value_heads": 1})
    plain = count_activations(model, BATCH, FULL).layers
    masked = count_activations(model, Batch(2, 10, has_mask=True), FULL).layers
    assert masked - plain == 20 * 4 * (2 * (64 - 16) + 10)


def test_autocast_keeps_copies_of_the_weights() -> None:
    model = architecture(GPT2)
    with_weights = count_activations(model, BATCH, AUTOCAST, num_linear=1000)
    assert with_weights.outside == count_activations(model, BATCH, AUTOCAST).outside + 2000
    assert with_weights.layers < count_activations(model, BATCH, FULL).layers


def test_the_peak_is_the_highest_moment() -> None:
    model = architecture({**GPT2, "tie_word_embeddings": False})
    states = States(4000, 4000, 8000)
    small = Activations(layers=300, working=100, outside=50, loss=0)
    assert training_peak(states, small, model, keeps_gradients=False, on_gpu=False) == 16000 + 2 * 4000
    whole = States(400_000, 400_000, 800_000)
    update = 1_600_000 + 2 * 4 * 100 * 64
    assert training_peak(whole, small, model, keeps_gradients=False, on_gpu=False) == update
    assert (
        training_peak(whole, small, model, keeps_gradients=False, on_gpu=False, buffers=Buffers(always=7)) == update + 7
    )
    assert training_peak(states, small, model, keeps_gradients=False, on_gpu=True) == 16000 + 4000
    large = Activations(layers=300_000, working=10_000, outside=50, loss=0)
    assert training_peak(states, large, model, keeps_gradients=False, on_gpu=False) == 12000 + 310_050
    assert training_peak(states, large, model, keeps_gradients=True, on_gpu=False) == 16000 + 310_050
    logits = Activations(layers=300, working=100, outside=50, loss=400_000)
    assert training_peak(states, logits, model, keeps_gradients=False, on_gpu=False) == 12000 + 400_350


def architecture(config: dict[str, object]) -> Architecture:
    found = read_architecture(config)
    assert found is not None
    return found


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
    assert train.parameters * 3 < (train.peak or 0) <= train.parameters * 4 + (train.activations or 0)
    assert (tune.activations or 0) > 1.9 * (train.activations or 0), "one worker has the whole batch"
    assert serve.kv_cache == 2 * 2 * 2 * 16 * 4 * 16 * 128
    assert serve.parameters is not None
    assert serve.parameters < train.parameters


def test_zero_splits_states() -> None:
    spec = with_overrides(spec_from_dict(full()), {"tune": None})
    totals = []
    for zero in (0, 1, 2, 3):
        (memory, *_) = estimate_memory(with_overrides(spec, {"train.parallel.zero": zero}))
        totals.append((memory.parameters or 0) + (memory.gradients or 0) + (memory.optimizer or 0))
    assert totals[0] > totals[1] > totals[2] > totals[3] > 0


def test_zero_takes_less_of_a_model_whose_states_are_the_most() -> None:
    """Stages 1 and 2 are alike where the update needs the most; stage 3 has all weights for a moment."""
    config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}
    spec = with_overrides(spec_from_dict(full()), {"tune": None, "model.config": config, "train.batch_size": 8})
    for workers, falls in ((2, 1.2), (8, 2.5)):
        parallel = {"workers": workers}
        peaks = []
        for zero in (0, 1, 2, 3):
            changed = with_overrides(spec, {"train.parallel": {**parallel, "zero": zero}})
            peaks.append(estimate_memory(changed)[0].peak or 0)
        assert peaks[0] > peaks[1] >= peaks[2] > peaks[3] > 0
        assert peaks[0] / peaks[3] > falls


@pytest.mark.parametrize("zero", [1, 2, 3])
def test_states_on_a_disk_are_not_in_memory_and_weights_are(zero: int) -> None:
    """A GPU's share of the weights goes to host memory with stage 3; a CPU's is there."""
    spec = with_overrides(spec_from_dict(full()), {"tune": None, "train.parallel.zero": zero})
    place = {"train.parallel.offload": "nvme", "train.parallel.offload_folder": "/mnt"}
    here, there = (estimate_memory(with_overrides(spec, keys))[0] for keys in ({}, place))
    assert (there.parameters, there.gradients, there.optimizer) == (here.parameters, here.gradients, 0)
    assert here.peak is not None
    assert there.peak == here.peak - (here.optimizer or 0)


def test_what_is_unknown_stays_unknown_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", "/nowhere")
    (train,) = estimate_memory(spec_from_dict(classifier()))
    assert train.parameters is None
    assert train.peak is None
    assert "some-encoder" in (train.reason or "")


def test_an_adapter_has_the_gradients_of_its_own_parameters() -> None:
    spec = with_overrides(spec_from_dict(full()), {"tune": None})
    whole = estimate_memory(spec)[0]
    lora = estimate_memory(with_overrides(spec, {"train.adapter": {"kind": "lora"}}))[0]
    assert (lora.parameters or 0) - (whole.parameters or 0) == lora.gradients
    assert lora.optimizer == 2 * (lora.gradients or 0)
    assert (lora.peak or 0) < (whole.peak or 0)
    other = estimate_memory(with_overrides(spec, {"train.adapter": {"kind": "my.module:Adapter"}}))[0]
    assert other.peak is None
    assert "adapter" in (other.reason or "")


def test_the_end_of_a_run_can_need_the_most() -> None:
    """Each of four tensor ranks holds a quarter of 16 bytes a parameter; worker 0 gathers 4 more."""
    config = {"model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 11008}
    spec = with_overrides(spec_from_dict(full()), {"tune": None, "model.config": config, "train.batch_size": 2})
    cut = with_overrides(spec, {"train.parallel": {"tensor": 4}, "train.gradient_accumulation_steps": 2})
    (memory, *_) = estimate_memory(cut)
    states = (memory.parameters or 0) + (memory.optimizer or 0)
    whole = 4 * (memory.parameters or 0)
    assert states + whole < (memory.peak or 0) < 1.05 * (states + whole)
    on_gpu = with_overrides(cut, {"train.resources_per_worker": {"GPU": 1}})
    assert (estimate_memory(on_gpu)[0].peak or 0) < states + whole, "the copies are in host memory"


def test_tensor_ranks_share_what_lies_inside_the_layers() -> None:
    spec = with_overrides(spec_from_dict(full()), {"tune": None, "train.parallel": {"workers": 1}})
    whole = estimate_memory(spec)[0].activations or 0
    cut = estimate_memory(with_overrides(spec, {"train.parallel": {"tensor": 2}}))[0].activations or 0
    assert whole / 2 < cut < whole
