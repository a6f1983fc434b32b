"""What one training run is, in values that cross to a worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.models.loading import build_from_config, load_pretrained, load_tokenizer
from fastserve_ray.spec import ModelSpec, TrainSpec

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class TrainJob:
    """A model, a prepared dataset and how to train."""

    model: ModelSpec
    train: TrainSpec
    dataset: Path
    """Folder of a prepared dataset on this machine."""
    base: str | None = None
    """Where ``model.base`` was resolved to: a hub id or a folder; None trains ``model.config`` from scratch."""
    data_seed: int = 0
    """Decides the order of the rows."""

    def total_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run."""
        if self.train.max_steps is not None:
            return self.train.max_steps
        return max(1, math.ceil(self.train.num_epochs * self.steps_per_epoch(num_rows)))

    def steps_per_epoch(self, num_rows: int) -> int:
        """Global batches in one pass; the last one may be smaller."""
        return math.ceil(num_rows / self.train.batch_size)


def build_model(job: TrainJob, dataset: PreparedDataset) -> tuple[torch.nn.Module, Any]:
    """The model to train, in float32, and its tokenizer; the same weights on every worker.

    Raises:
        ModelError: the model cannot be loaded or built.
    """
    labels = dataset.info.label_names
    if job.base is None:
        tokenizer = load_tokenizer(dataset.tokenizer_folder)
        config = job.model.config or {}
        model = build_from_config(config, job.model.task, tokenizer, seed=job.train.seed, label_names=labels)
    else:
        loaded = load_pretrained(
            job.base,
            job.model.task,
            revision=job.model.revision,
            label_names=labels,
            dtype="float32",
            trust_remote_code=job.model.trust_remote_code,
            seed=job.train.seed,
        )
        model, tokenizer = loaded.model, loaded.tokenizer
    if job.train.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return model, tokenizer
