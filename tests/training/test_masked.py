"""Pre-training of masked language models: from documents to a folder that can be fine-tuned."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch

from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.engines.table import open_engine
from fastserve_ray.errors import EngineError
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec import EngineSpec, ModelSpec, VerifySpec
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.training.hooks import Hooks
from fastserve_ray.training.in_process import train_in_process
from fastserve_ray.training.job import TrainJob
from fastserve_ray.verify.verify import verify_model
from tests.training.tiny import train_spec

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.training.checkpoint.slices import Snapshot

SHAPE: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
CONFIGS = {
    "bert": {"model_type": "bert", **SHAPE},
    "roberta": {"model_type": "roberta", **SHAPE},
}
DOCUMENTS = [" ".join(f"Text {n} has part {part}." for part in range(4 + n % 5)) for n in range(30)]


@pytest.fixture(scope="module", params=CONFIGS)
def job(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TrainJob:
    root = tmp_path_factory.mktemp(request.param)
    (root / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    model = {"task": "masked-lm", "config": CONFIGS[request.param], "tokenizer": {"vocab_size": 300}}
    data = {"train": {"path": str(root / "corpus.jsonl")}, "max_length": 32}
    spec = spec_from_dict({"name": "tiny", "model": model, "data": data, "train": {}})
    (root / "data").mkdir()
    prepare_dataset(spec, root / "data")
    return TrainJob(spec.model, train_spec(learning_rate=3e-3), root / "data")


def losses_of(job: TrainJob, hooks: Hooks | None = None, **changes: Any) -> list[float]:
    losses: list[float] = []
    settings: dict[str, Any] = {"learning_rate": 3e-3, **changes}
    changed = TrainJob(job.model, train_spec(**settings), job.dataset)
    own = hooks or Hooks()
    train_in_process(
        changed,
        Hooks(
            on_step=lambda step, loss: losses.append(loss), on_checkpoint=own.on_checkpoint, resume_from=own.resume_from
        ),
        num_threads=1,
    )
    return losses


def test_a_published_model_is_verified_and_fine_tuned_but_not_served(job: TrainJob, tmp_path: Path) -> None:
    losses: list[float] = []
    result = train_in_process(job, Hooks(on_step=lambda step, loss: losses.append(loss)), num_threads=1)
    assert losses[-1] < 0.95 * losses[0]
    result.save(tmp_path / "model")
    settings: dict[str, Any] = {"task": "masked-lm", "dataset": job.dataset, "parent_metrics": None}
    found = verify_model(tmp_path / "model", None, VerifySpec(), **settings, engine_spec=EngineSpec(), out=tmp_path)
    assert found.is_passed
    assert found.metrics["eval_loss"] == pytest.approx(result.metrics["eval_loss"], abs=1e-5)
    assert load_pretrained(tmp_path / "model", "text-classification", num_labels=3).model.config.num_labels == 3
    with pytest.raises(EngineError, match="made to be fine-tuned"):
        open_engine(tmp_path / "model", "masked-lm")
    again = TrainJob(ModelSpec(task="masked-lm", base=str(tmp_path / "model")), train_spec(max_steps=1), job.dataset)
    assert train_in_process(again, num_threads=1).num_steps == 1


def test_micro_batches_change_nothing(job: TrainJob) -> None:
    model = {**(job.model.config or {}), "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain = TrainJob(job.model.model_copy(update={"config": model}), job.train, job.dataset)
    whole, parts = losses_of(plain), losses_of(plain, gradient_accumulation_steps=4)
    assert whole == pytest.approx(parts, abs=1e-5)


def test_a_resumed_run_masks_what_an_uninterrupted_one_would(job: TrainJob, tmp_path: Path) -> None:
    def keep(step: int, snapshot: Snapshot) -> None:
        snapshot.write_folder(tmp_path / str(step))

    every: dict[str, Any] = {"checkpoint": {"every_steps": 5}, "max_steps": 12}
    whole = losses_of(job, Hooks(on_checkpoint=keep), **every)
    assert losses_of(job, Hooks(resume_from=tmp_path / "5"), **every) == whole[5:]


def test_every_epoch_masks_anew(job: TrainJob) -> None:
    """At a rate of next to nothing only the masks differ between epochs."""
    losses = losses_of(job, learning_rate=1e-12, batch_size=512, max_steps=3, warmup_ratio=0.0)
    assert len({round(loss, 4) for loss in losses}) == 3
    assert torch.tensor(losses).std() < 0.5
