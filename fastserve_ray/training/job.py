"""What one training run is, in values that cross to a worker."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import build_from_config, has_adapter, load_pretrained, load_tokenizer
from fastserve_ray.tasks.packed import keeps_documents_apart
from fastserve_ray.training.adapters.freeze import freeze
from fastserve_ray.training.adapters.protocol import Occasion
from fastserve_ray.training.adapters.table import attach

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from fastserve_ray.data.dataset import PreparedDataset
    from fastserve_ray.spec import ModelSpec, TrainSpec


@dataclass(frozen=True)
class TrainJob:
    """A model, a prepared dataset and how to train."""

    model: ModelSpec
    """``base``, when given, is a hub id or a folder on this machine."""
    train: TrainSpec
    dataset: Path
    """Folder of a prepared dataset on this machine."""

    def total_steps(self, num_rows: int) -> int:
        """Optimizer steps of the whole run over ``num_rows`` training rows."""
        if self.train.max_steps is not None:
            return self.train.max_steps
        return max(1, math.ceil(self.train.num_epochs * math.ceil(num_rows / self.train.batch_size)))


def build_model(job: TrainJob, dataset: PreparedDataset) -> tuple[torch.nn.Module, Any]:
    """The model to train, in float32, and its tokenizer; the same weights on every worker. What is not trained requires
    no gradient.

    Raises:
        ModelError: the model cannot be loaded or built, or what is to be trained of it is not there.
    """
    labels, spec = dataset.info.label_names, job.model
    if spec.base is None:
        tokenizer = load_tokenizer(dataset.tokenizer_folder)
        model = build_from_config(spec.config or {}, spec.task, tokenizer, seed=job.train.seed, label_names=labels)
    else:
        loaded = load_pretrained(
            spec.base,
            spec.task,
            revision=spec.revision,
            label_names=labels,
            dtype="float32",
            trust_remote_code=spec.trust_remote_code,
            seed=job.train.seed,
        )
        model, tokenizer = loaded.model, loaded.tokenizer
        if spec.chat_template is not None:
            tokenizer.chat_template = load_tokenizer(dataset.tokenizer_folder).chat_template
    if has_adapter(spec.base or ""):
        raise ModelError(
            "the base needs its learned prompt", value=spec.base, allowed="a model without one", key="model.base"
        )
    freeze(model, job.train.freeze)
    if job.train.adapter is not None:
        total = job.total_steps(len(dataset.train))
        model = attach(model, job.train.adapter, Occasion(spec.task, total, job.train.seed, spec.base, tokenizer))
    if "lengths" in dataset.train[0]:
        keeps_documents_apart(model)  # while its weights are whole
    if job.train.gradient_checkpointing:
        _checkpoint_gradients(model)
    return model, tokenizer


def _checkpoint_gradients(model: Any) -> None:
    """Without reentrant autograd, which hooks of DDP and ZeRO do not go with."""
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
