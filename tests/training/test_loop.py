"""The loop in one process, as trials and the Python interface use it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import torch

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.errors import DataError, StorageError, TrainingError
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import ParallelSpec
from fastserve_ray.tasks.evaluate import evaluate
from fastserve_ray.tasks.table import load_task
from fastserve_ray.training.disk import disk_errors
from fastserve_ray.training.failures import memory_errors
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import on_one_worker, train_in_process
from fastserve_ray.training.job import TrainJob
from fastserve_ray.training.strategies.optimizer import parameter_groups
from fastserve_ray.training.strategies.table import STRATEGIES, strategy_label, strategy_name
from fastserve_ray.training.strategies.zero import deepspeed_config
from tests.training.tiny import model_spec, task_of, train_spec, write_dataset

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.training.checkpoint.slices import Snapshot
    from fastserve_ray.training.hooks import TrainResult


@pytest.fixture(scope="module")
def datasets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("data")
    return {task: write_dataset(root / task, task) for task in ("text-generation", "text-classification")}


def train(
    datasets: dict[str, Path],
    family: str = "llama",
    hooks: Hooks | None = None,
    *,
    dropout: bool = False,
    **changes: Any,
) -> TrainResult:
    job = TrainJob(model_spec(family, dropout=dropout), train_spec(**changes), datasets[task_of(family)])
    return train_in_process(job, hooks, num_threads=1)


def losses_of(datasets: dict[str, Path], family: str = "llama", **changes: Any) -> list[float]:
    losses: list[float] = []
    train(datasets, family, Hooks(on_step=lambda step, loss: losses.append(loss)), **changes)
    return losses


def test_accumulation_changes_nothing(datasets: dict[str, Path]) -> None:
    """Rows have unequal numbers of tokens and the last batch is small: means of means would differ."""
    expected = losses_of(datasets, "bert")
    for accumulation in (2, 8):
        assert losses_of(datasets, "bert", gradient_accumulation_steps=accumulation) == pytest.approx(
            expected, abs=1e-5
        )
    assert losses_of(datasets, "bert", micro_batch_size=2) == pytest.approx(expected, abs=1e-5)


def test_a_resumed_run_ends_with_the_same_bits(datasets: dict[str, Path], tmp_path: Path) -> None:
    def save(step: int, snapshot: Snapshot) -> None:
        snapshot.write_folder(tmp_path / str(step))

    settings: dict[str, Any] = {"dropout": True, "max_steps": 12, "checkpoint": {"every_steps": 5}}
    whole = train(datasets, "gpt2", Hooks(on_checkpoint=save), **settings)
    assert {path.name for path in tmp_path.iterdir()} == {"5", "10"}
    steps: list[int] = []
    hooks = Hooks(resume_from=tmp_path / "10", on_step=lambda step, loss: steps.append(step))
    resumed = train(datasets, "gpt2", hooks, **settings)
    assert steps == [11, 12]
    assert whole.state_dict is not None
    assert resumed.state_dict is not None
    assert all(torch.equal(weight, resumed.state_dict[name]) for name, weight in whole.state_dict.items())


def test_dropout_is_drawn_anew_in_every_step(datasets: dict[str, Path]) -> None:
    assert losses_of(datasets, "gpt2", dropout=True) != losses_of(datasets, "gpt2")
    assert losses_of(datasets, "gpt2", dropout=True) == losses_of(datasets, "gpt2", dropout=True)


def test_steps_follow_from_epochs(datasets: dict[str, Path]) -> None:
    """Fifty rows in batches of eight are seven steps."""
    assert train(datasets, max_steps=None, num_epochs=2.0).num_steps == 14
    assert train(datasets, max_steps=None, num_epochs=0.5).num_steps == 4


def test_evaluations_are_at_epochs_ends_and_where_asked(datasets: dict[str, Path]) -> None:
    seen: list[int] = []

    def note(step: int, metrics: dict[str, float]) -> bool:
        speed = {"tokens_per_second", "step_seconds", "mfu"}
        assert metrics.keys() == {"eval_loss", "eval_perplexity", "eval_accuracy", "train_loss", *speed}
        seen.append(step)
        return False

    train(datasets, hooks=Hooks(on_evaluate=note), eval_every_steps=5, max_steps=16)
    assert seen == [5, 7, 10, 14, 15, 16]


def test_an_evaluation_may_end_training(datasets: dict[str, Path]) -> None:
    result = train(datasets, hooks=Hooks(on_evaluate=lambda step, metrics: step >= 6), eval_every_steps=3)
    assert result.num_steps == 6
    assert "eval_loss" in result.metrics


def test_training_may_be_stopped_from_outside(datasets: dict[str, Path]) -> None:
    answers = iter([False, False, True])
    result = train(datasets, hooks=Hooks(should_stop=lambda: next(answers)))
    assert result.num_steps == 3
    assert "eval_loss" in result.metrics


def test_progress_says_how_far_and_how_fast(datasets: dict[str, Path]) -> None:
    calls: list[dict[str, Any]] = []

    def progress(**fields: Any) -> None:
        calls.append(fields)

    train(datasets, hooks=Hooks(progress=progress), logging_steps=8)
    assert [call["step"] for call in calls] == [1, 8, 16, 20]
    assert all(call["total"] == 20 and call["tokens_per_second"] > 0 for call in calls)
    assert next(call["learning_rate"] for call in calls) == 0.0


def test_the_saved_model_scores_what_training_says(datasets: dict[str, Path], tmp_path: Path) -> None:
    for family in ("gpt2", "bert"):
        result = train(datasets, family)
        result.save(tmp_path / family)
        loaded = load_pretrained(tmp_path / family, task_of(family))
        rows = PreparedDataset.open(datasets[task_of(family)]).validation
        found = evaluate(loaded.model, load_task(task_of(family)), rows, batch_size=4, pad_token_id=0)
        assert found["eval_loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-6)
        assert not result.model.training
    assert loaded.model.config.id2label == {0: "no", 1: "yes"}


def test_bf16_and_recomputation_learn(datasets: dict[str, Path]) -> None:
    for changes in ({"precision": "bf16"}, {"gradient_checkpointing": True}):
        losses = losses_of(datasets, **changes)
        assert losses[-1] < 0.9 * losses[0]


def test_a_loss_that_is_no_number_names_step_and_rate(datasets: dict[str, Path]) -> None:
    with pytest.raises(TrainingError, match=r"in step \d+ of 20") as caught:
        train(datasets, learning_rate=1e30, warmup_ratio=0.0, max_grad_norm=0.0)
    assert "learning rate 9.76e+29" in str(caught.value)


def test_the_end_of_memory_says_what_to_change() -> None:
    settings = train_spec()
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("can't allocate memory: 9"),
    ):
        with pytest.raises(TrainingError, match="ran out of memory"), memory_errors(settings):
            raise error
    with pytest.raises(RuntimeError, match="shapes"), memory_errors(settings):
        raise RuntimeError("shapes do not match")


def test_a_full_disk_is_an_error_of_storage() -> None:
    writer = RuntimeError("[enforce fail at inline_container.cc:664] PytorchStreamWriter failed writing file data/0")
    for error in (writer, OSError(28, "No space left on device")):
        with pytest.raises(StorageError, match="disk"), disk_errors("the checkpoint"):
            raise error
    with pytest.raises(KeyError), disk_errors("the checkpoint"):
        raise KeyError("a bug")


def test_nothing_to_train_on_is_an_error(datasets: dict[str, Path], tmp_path: Path) -> None:
    source = datasets["text-generation"]
    for file in source.rglob("*"):
        if file.is_file():
            target = tmp_path / file.relative_to(source)
            target.parent.mkdir(exist_ok=True, parents=True)
            target.write_bytes(file.read_bytes())
    for name in ("validation", "train"):
        path = tmp_path / f"{name}.arrow"
        with pa.ipc.open_file(path) as reader:
            schema = reader.schema
        path.unlink()
        with pa.ipc.new_file(path, schema):
            pass
        empty = {"text-generation": tmp_path}
        if name == "validation":
            assert not any(metric.startswith("eval_") for metric in train(empty).metrics)
    with pytest.raises(DataError, match="no training rows"):
        train(empty)


def test_biases_and_norms_do_not_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.LayerNorm(2), torch.nn.Embedding(4, 2))
    decayed, kept = parameter_groups(model, 0.1)
    assert [tuple(weight.shape) for weight in decayed["params"]] == [(2, 3), (4, 2)]
    assert [tuple(weight.shape) for weight in kept["params"]] == [(2,), (2,), (2,)]
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.1, 0.0)


def test_deepspeed_is_told_everything_that_its_defaults_would_change() -> None:
    settings = train_spec(workers=2, zero=3, batch_size=8, gradient_accumulation_steps=2, max_grad_norm=0.0)
    config = deepspeed_config(settings, [1000])
    assert config["gradient_clipping"] == 0.0
    assert (config["train_batch_size"], config["train_micro_batch_size_per_gpu"]) == (8, 2)
    assert config["zero_optimization"]["stage"] == 3
    assert not config["bf16"]["enabled"]


def test_one_worker_keeps_batch_and_micro_batch() -> None:
    spread = train_spec(workers=2, zero=2, batch_size=8, gradient_accumulation_steps=2)
    alone = on_one_worker(spread)
    assert alone.parallel == ParallelSpec()
    assert (alone.batch_size, alone.rows_per_pass) == (8, spread.rows_per_pass)
    assert alone.learning_rate == spread.learning_rate


def test_names_of_strategies() -> None:
    assert strategy_name(ParallelSpec()) == "single"
    assert strategy_name(ParallelSpec(workers=2)) == "ddp"
    assert strategy_name(ParallelSpec(workers=2, zero=3)) == "zero"
    assert strategy_name(ParallelSpec(tensor=2)) == "single"
    assert strategy_name(ParallelSpec(workers=2, zero=1, pipeline=2)) == "pipeline"
    assert set(STRATEGIES) == {"single", "ddp", "pipeline", "zero"}
    assert strategy_label(ParallelSpec(workers=2)) == "ddp"
    assert strategy_label(ParallelSpec(workers=2, tensor=2, zero=1)) == "tensor-2+zero-1"


def test_a_job_goes_to_another_process_as_it_is(datasets: dict[str, Path]) -> None:
    import pickle

    job = TrainJob(model_spec("llama"), train_spec(), datasets["text-generation"])
    assert pickle.loads(pickle.dumps(job)) == job
    assert replace(job, train=train_spec(seed=1)) != job
