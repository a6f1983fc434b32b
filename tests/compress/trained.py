"""Small models that have learned something, and the prepared rows they learned it from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import torch

from fastserve_ray.data.dataset import DatasetInfo, PreparedDataset, write_prepared
from fastserve_ray.models.loading import build_from_config, save_model
from fastserve_ray.tasks.table import load_task
from tests.training.tiny import CONFIGS, NO_DROPOUT, WORDS, make_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.spec.model import TaskName

FAMILY = {"text-generation": "llama", "text-classification": "bert"}
STEPS = 80


class Trained(NamedTuple):
    """Folders."""

    task: TaskName
    dataset: Path
    model: Path


def make_trained(folder: Path, task: TaskName) -> Trained:
    """A dataset, and a model that has learned it."""
    dataset = prepare(folder / "dataset", task)
    return Trained(task, dataset, train(folder / "model", dataset, task))


def prepare(folder: Path, task: TaskName) -> Path:
    """Words that count up (generation), and whether the first word is in the upper half (classification)."""
    folder.mkdir(parents=True)
    is_classifier = task == "text-classification"
    starts = range(WORDS)
    lengths = [5 + start % 9 if is_classifier else 16 for start in starts]
    ids = [[3 + (start + i) % WORDS for i in range(length)] for start, length in zip(starts, lengths, strict=True)]
    columns: dict[str, Any] = {
        "input_ids": pa.array(ids, pa.list_(pa.int32())),
        "text": [" ".join(f"w{token - 3}" for token in row) for row in ids],
    }
    if is_classifier:
        columns["label"] = pa.array([int(start > WORDS // 2) for start in starts], pa.int64())
    table = pa.table(columns)
    info = DatasetInfo(
        task=task,
        label_names=("low", "high") if is_classifier else None,
        num_train=WORDS,
        num_validation=WORDS,
        max_length=16,
        pad_token_id=0,
        vocab_size=WORDS + 3,
        num_tokens=sum(lengths),
    )
    write_prepared(folder, info, table, table)
    return folder


def train(folder: Path, dataset: Path, task: TaskName) -> Path:
    """A Hugging Face folder whose model has learned the rows."""
    prepared, definition, family = PreparedDataset.open(dataset), load_task(task), FAMILY[task]
    tokenizer = make_tokenizer()
    config = CONFIGS[family] | NO_DROPOUT.get(family, {})
    model = build_from_config(config, task, tokenizer, seed=1, label_names=prepared.info.label_names)
    batch = definition.collate(list(prepared.train), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(STEPS):
        loss = definition.loss(model, batch)
        (loss.total / loss.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(model.eval(), tokenizer, folder)
    return folder
