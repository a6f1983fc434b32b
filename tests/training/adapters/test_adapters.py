"""Adapters learn, leave the base alone, and come out as plain models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.compress.apply import compress_model_folder
from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.engines.table import open_engine
from fastserve_ray.errors import CompressionError, EngineError, ModelError
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import EngineSpec, VerifySpec
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.adapters.table import adapter_of
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.job import TrainJob, build_model
from fastserve_ray.training.loop import TrainingLoop
from fastserve_ray.verify.verify import verify_model
from tests.training.tiny import model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fastserve_ray.spec import OtherAdapter
    from fastserve_ray.training.adapters.protocol import Occasion
    from fastserve_ray.training.hooks import TrainResult

FAMILIES = ("gpt2", "llama", "bert")
MERGED: dict[str, dict[str, Any]] = {
    "lora": {"kind": "lora", "lora_r": 4},
    "adalora": {"kind": "adalora", "init_r": 4, "target_r": 2, "every_steps": 2},
    "ia3": {"kind": "ia3"},
}
LEARNED: dict[str, dict[str, Any]] = {
    "prompt": {"kind": "prompt", "num_virtual_tokens": 4},
    "prefix": {"kind": "prefix", "num_virtual_tokens": 4},
    "prefix-projection": {"kind": "prefix", "num_virtual_tokens": 4, "projection_size": 8},
}


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("adapters")
    return {task: write_dataset(root / task, task) for task in ("text-generation", "text-classification")}


def job_of(datasets: dict[str, Path], family: str, adapter: dict[str, Any], **changes: Any) -> TrainJob:
    settings: dict[str, Any] = {"learning_rate": 5e-2, "adapter": adapter, **changes}
    return TrainJob(model_spec(family), train_spec(**settings), datasets[task_of(family)])


def trained(job: TrainJob, **hooks: Any) -> tuple[TrainingLoop, TrainResult, list[float]]:
    losses: list[float] = []
    loop = TrainingLoop(job, None, Hooks(on_step=lambda step, loss: losses.append(loss), **hooks))
    return loop, loop.run(), losses


def logits_of(model: torch.nn.Module, job: TrainJob) -> torch.Tensor:
    dataset = PreparedDataset.open(job.dataset)
    batch = load_task(job.model.task).collate(dataset.validation[:], 0)
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return logits


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", MERGED)
def test_merged_and_unmerged_logits_agree(datasets: dict[str, Path], tmp_path: Path, kind: str, family: str) -> None:
    job = job_of(datasets, family, MERGED[kind])
    loop, result, losses = trained(job)
    assert min(losses) < losses[0]
    unmerged = logits_of(loop.model.eval(), job)
    assert (logits_of(result.model, job) - unmerged).abs().max() <= 1e-4
    base, _ = build_model(TrainJob(job.model, train_spec(), job.dataset), loop.dataset)
    assert (logits_of(base.eval(), job) - unmerged).abs().max() > 1e-2
    result.save(tmp_path)
    loaded = load_pretrained(tmp_path, job.model.task)
    assert type(loaded.model) is type(base)
    assert (logits_of(loaded.model, job) - unmerged).abs().max() <= 1e-4
    assert {name for name, _ in loaded.model.named_parameters()} == {name for name, _ in base.named_parameters()}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", MERGED)
def test_only_the_adapter_and_a_new_head_are_trained(datasets: dict[str, Path], kind: str, family: str) -> None:
    job = job_of(datasets, family, MERGED[kind])
    model, _ = build_model(job, PreparedDataset.open(job.dataset))
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    chosen = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert all(".lora_" in name or ".ia3_l." in name or name.startswith("classifier.") for name in chosen)
    loop, _, _ = trained(job)
    after = dict(loop.model.named_parameters())
    moved = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
    assert moved <= chosen
    assert moved >= {name for name in chosen if ".lora_E." not in name}  # AdaLoRA may set these back to zero


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("kind", LEARNED)
def test_a_learned_prompt_is_published_beside_its_base(
    datasets: dict[str, Path], tmp_path: Path, kind: str, family: str
) -> None:
    job = job_of(datasets, family, LEARNED[kind])
    loop, result, losses = trained(job)
    assert losses[-1] < losses[0]
    result.save(tmp_path)
    assert (tmp_path / "config.json").exists()
    found = load_pretrained(tmp_path, job.model.task)
    rows = loop.dataset.validation
    metrics = evaluate(found.model, load_task(job.model.task), rows, batch_size=4, pad_token_id=0)
    assert metrics["eval_loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-4)
    with pytest.raises(EngineError, match="learned prompt"):
        open_engine(tmp_path, job.model.task)
    with pytest.raises(CompressionError, match="learned prompt"):
        compress_model_folder(tmp_path, (), task=job.model.task, rows=rows, pad_token_id=0, out=tmp_path / "out")


def test_a_learned_prompt_is_verified_without_an_engine(datasets: dict[str, Path], tmp_path: Path) -> None:
    job = job_of(datasets, "llama", LEARNED["prompt"], max_steps=2)
    _, result, _ = trained(job)
    result.save(tmp_path / "model")
    found = verify_model(
        tmp_path / "model", None, VerifySpec(), task=job.model.task, dataset=job.dataset, parent_metrics=None,
        engine_spec=EngineSpec(), out=tmp_path,
    )  # fmt: skip
    assert found.is_passed
    assert found.golden.num_inputs == 0
    assert "nothing was replayed" in found.page()
    assert found.metrics["eval_loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-4)


def test_a_prompt_may_start_from_words(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", {"kind": "prompt", "num_virtual_tokens": 3, "init_text": "w5 w6"})
    model: Any
    model, _ = build_model(job, PreparedDataset.open(job.dataset))
    words = model.get_base_model().get_input_embeddings().weight
    assert torch.equal(model.prompt_encoder["default"].embedding.weight, words[[8, 9, 8]])


class BiasOnly:
    """A user's own: BitFit (arXiv 2106.10199), which trains the biases in place."""

    is_mergeable = True

    def __init__(self, spec: OtherAdapter, occasion: Occasion) -> None:
        self.part = str(spec.settings["part"])

    def attach(self, model: torch.nn.Module) -> torch.nn.Module:
        for name, weight in model.named_parameters():
            weight.requires_grad_(name.endswith(".bias") and self.part in name)
        return model

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        self.num_watched = sum(len(group["params"]) for group in optimizer.param_groups)

    def merged(self, module: Any, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        whole: torch.nn.Module = type(module)(module.config)
        whole.load_state_dict(state)
        return whole.eval()

    def save(self, module: Any, state: Mapping[str, torch.Tensor], tokenizer: Any, folder: Path) -> None:
        raise AssertionError("it is mergeable")


def test_an_adapter_of_ones_own(datasets: dict[str, Path]) -> None:
    own = {"kind": f"{__name__}:BiasOnly", "settings": {"part": "mlp"}}
    job = job_of(datasets, "gpt2", own)
    loop, result, losses = trained(job)
    assert losses[-1] < losses[0]
    found: Any = adapter_of(loop.model)
    assert found.num_watched == 4
    assert torch.equal(logits_of(result.model, job), logits_of(loop.model, job))


def test_ranks_fall_to_their_target(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", MERGED["adalora"])
    loop, _, _ = trained(job)
    kept = [int((weight != 0).sum()) for name, weight in loop.model.named_parameters() if "lora_E" in name]
    assert sum(kept) == 2 * len(kept)


def test_more_workers_would_draw_the_same_adapter(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", MERGED["lora"])
    first, second = (build_model(job, PreparedDataset.open(job.dataset))[0] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert adapter_of(first) is not adapter_of(second)


def test_layers_that_are_not_there_are_named(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", {"kind": "lora", "target_modules": ["q_prj"]})
    with pytest.raises(ModelError) as caught:
        build_model(job, PreparedDataset.open(job.dataset))
    assert caught.value.key == "train.adapter.target_modules"
    assert "q_proj" in str(caught.value.hint)


def test_a_layer_that_shares_its_matrix_is_refused(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "gpt2", {"kind": "lora", "target_modules": ["wte"]})
    with pytest.raises(ModelError, match="share") as caught:
        build_model(job, PreparedDataset.open(job.dataset))
    assert caught.value.key == "train.adapter.target_modules"


def test_how_a_model_generates_outlives_the_merge(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", MERGED["lora"])
    model: Any
    model, _ = build_model(job, PreparedDataset.open(job.dataset))
    model.generation_config.eos_token_id = [1, 7]
    adapter = adapter_of(model)
    assert adapter is not None
    merged: Any = adapter.merged(model, model.state_dict())
    assert merged.generation_config.eos_token_id == [1, 7]


def test_too_few_steps_for_three_phases(datasets: dict[str, Path]) -> None:
    job = job_of(datasets, "llama", MERGED["adalora"], max_steps=1)
    with pytest.raises(ModelError, match="too few steps"):
        build_model(job, PreparedDataset.open(job.dataset))
