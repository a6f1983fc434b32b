"""Runs that fit, runs that do not, and what is proposed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import PlacementError, SpecError
from fastserve_ray.plan import budget
from fastserve_ray.plan.budget import MIB, worker_budget
from fastserve_ray.plan.fit import check_memory, misfits, with_micro_batch
from fastserve_ray.plan.memory import estimate_memory
from fastserve_ray.plan.stages import plan_run
from fastserve_ray.spec.load import spec_from_dict, with_overrides

if TYPE_CHECKING:
    from fastserve_ray.spec import RunSpec

OVERHEAD_MB = (budget.RAY_BYTES + budget.PROCESS_BYTES) // MIB


def make(memory_mb: int, *, gpu: bool = False, workers: int = 1, **train: Any) -> RunSpec:
    """A Llama of 13.6 million parameters whose workers have about ``memory_mb`` each, after all overheads."""
    node = (memory_mb * workers + OVERHEAD_MB + (workers - 1) * budget.PROCESS_BYTES // MIB) / budget.USABLE
    card = (memory_mb + budget.CUDA_BYTES // MIB) / budget.USABLE
    parallel = {"workers": workers, **train.pop("parallel", {})}
    resources = {"GPU": 1} if gpu else {}
    return spec_from_dict(
        {
            "name": "fits",
            "cluster": {"memory_mb": round(node) + 1, "gpu_memory_mb": round(card) + 1},
            "model": {
                "config": {
                    "model_type": "llama",
                    "hidden_size": 384,
                    "intermediate_size": 1024,
                    "num_hidden_layers": 6,
                    "num_attention_heads": 6,
                    "tie_word_embeddings": True,
                },
                "tokenizer": {"kind": "bpe", "vocab_size": 8000},
            },
            "data": {"train": {"kind": "python-docs"}, "max_length": 128},
            "train": {"batch_size": 32, "parallel": parallel, "resources_per_worker": resources, **train},
        }
    )


def peak(spec: RunSpec) -> float:
    """MiB of a worker in training."""
    found = estimate_memory(spec)[-1].peak
    assert found is not None
    return found / MIB


def test_the_budget_is_a_share_of_the_node() -> None:
    one, two = worker_budget(make(1000), 1), worker_budget(make(1000, workers=2), 2)
    assert one is not None
    assert two is not None
    assert one.bytes / MIB == pytest.approx(1000, abs=2)
    assert two.bytes / MIB == pytest.approx(1000, abs=2)
    assert "over 2 workers" in two.words


def test_a_part_of_a_gpu_is_a_part_of_its_memory() -> None:
    spec = make(1000, gpu=True)
    whole = worker_budget(spec, 2)
    half = worker_budget(with_overrides(spec, {"train.resources_per_worker.GPU": 0.5}), 2)
    assert whole is not None
    assert half is not None
    assert whole.bytes / MIB == pytest.approx(1000, abs=2)
    assert 2 * (half.bytes + budget.CUDA_BYTES) == pytest.approx(whole.bytes + budget.CUDA_BYTES, abs=2)


def test_the_memory_of_a_joined_ray_is_not_known() -> None:
    spec = spec_from_dict({**make(1000).model_dump(mode="json", exclude_unset=True), "cluster": {"address": "auto"}})
    assert worker_budget(spec, 1) is None
    assert list(misfits(spec)) == []


def test_a_share_of_the_nodes_that_the_file_describes() -> None:
    """As many workers share a node as it holds; the smallest share counts."""
    types: dict[str, Any] = {
        "head": {"resources": {"CPU": 2, "memory": "4Gi"}},
        "small": {"resources": {"CPU": 1, "memory": "8Gi"}, "max_workers": 4},
        "large": {"resources": {"CPU": 4, "memory": "24Gi"}, "max_workers": 4},
    }
    cluster: dict[str, Any] = {"address": "auto", "head_node_type": "head", "available_node_types": types}
    data = {**make(1000, workers=8).model_dump(mode="json", exclude_unset=True), "cluster": cluster}
    budget = worker_budget(spec_from_dict(data), 8)
    assert budget is not None
    assert "24 GiB, over 4 workers" in budget.words
    types["large"]["resources"] = {"CPU": 4}
    assert worker_budget(spec_from_dict(data), 8) is None, "the memory of a type is not known"


def test_what_fits_is_let_through() -> None:
    spec = make(2000)
    assert peak(spec) < 2000
    check_memory(spec, stages=["train"])


def error_of(spec: RunSpec) -> PlacementError:
    with pytest.raises(PlacementError) as caught:
        check_memory(spec, stages=["train"])
    return caught.value


def test_a_smaller_micro_batch_comes_first_for_one_worker() -> None:
    spec = make(600)
    error = error_of(spec)
    assert error.key == "train.gradient_accumulation_steps"
    assert "at its peak" in str(error.value)
    assert (error.hint or "").startswith("set train.gradient_accumulation_steps: ")
    (misfit,) = misfits(spec)
    assert misfit.changed is not None
    assert (misfit.changed.peak or 0) <= misfit.budget.bytes < (misfit.memory.peak or 0)
    steps = (misfit.change or {})["train.gradient_accumulation_steps"]
    assert isinstance(steps, int)
    assert peak(make(600, gradient_accumulation_steps=steps // 2)) > 600, "the largest micro batch that fits"


def test_zero_comes_first_for_several_workers() -> None:
    """Less optimizer state is enough, and costs no time."""
    plain = peak(make(4000, workers=4))
    assert error_of(make(int(plain) - 40, workers=4)).key == "train.parallel.zero"


def test_checkpointing_when_one_sequence_is_too_much() -> None:
    one = peak(make(4000, gradient_accumulation_steps=32))
    (misfit,) = misfits(make(int(one) - 2))
    assert misfit.change is None or "train.gradient_checkpointing" in misfit.change


def test_when_nothing_fits_that_is_said() -> None:
    assert "no stage of ZeRO" in (error_of(make(20)).hint or "")


def test_another_stage_is_not_held_against_a_run() -> None:
    check_memory(make(20), stages=["verify"])


def test_auto_takes_the_largest_divisor_that_fits() -> None:
    chosen = with_micro_batch(make(600, micro_batch_size="auto"))
    assert chosen.train is not None
    rows = chosen.train.rows_per_pass
    assert chosen.train.micro_batch_size == rows
    assert rows in (1, 2, 4, 8, 16)
    assert peak(chosen) <= 600 < peak(make(600, micro_batch_size=2 * rows))
    assert chosen.train.passes_per_step * rows == 32


def test_auto_takes_all_where_there_is_room() -> None:
    chosen = with_micro_batch(make(20_000, workers=2, micro_batch_size="auto"))
    assert chosen.train is not None
    assert (chosen.train.micro_batch_size, chosen.train.passes_per_step) == (16, 1)


def test_auto_that_cannot_be_chosen_says_why() -> None:
    data = make(600, micro_batch_size="auto").model_dump(mode="json", exclude_unset=True)
    with pytest.raises(PlacementError, match="memory of the machines is not known"):
        with_micro_batch(spec_from_dict({**data, "cluster": {"address": "auto"}}))
    data["model"] = {"base": "nobody/has-this"}
    with pytest.raises(PlacementError, match="not on this machine"):
        with_micro_batch(spec_from_dict(data))
    with pytest.raises(PlacementError, match="needs more memory"):
        with_micro_batch(make(20, micro_batch_size="auto"))


def test_the_plan_keeps_the_number_and_its_digest() -> None:
    auto, given = make(600, micro_batch_size="auto"), with_micro_batch(make(600, micro_batch_size="auto"))
    plan = plan_run(auto)
    assert plan.spec == given
    assert plan.stage("train").digest == plan_run(given).stage("train").digest == plan_run(auto).stage("train").digest
    assert isinstance(plan.stage("train").settings["train.micro_batch_size"], int)


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"micro_batch_size": 5}, "does not divide a worker's share of a batch"),
        ({"micro_batch_size": 8, "gradient_accumulation_steps": 2}, "says already how a batch is cut"),
        ({"micro_batch_size": "auto", "parallel": {"workers": 3}}, "not divisible by parallel.workers"),
        ({"micro_batch_size": "large"}, "micro_batch_size"),
    ],
)
def test_micro_batches_that_do_not_go(train: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        make(600, **train)
