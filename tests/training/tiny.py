"""Small prepared datasets and models for the tests of training."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import PreTrainedTokenizerFast

from fastserve_ray.data.dataset import DatasetInfo, write_prepared
from fastserve_ray.spec import ModelSpec, ParallelSpec, TrainSpec

if TYPE_CHECKING:
    from pathlib import Path

WORDS = 61
MAX_LENGTH = 16
GENERATION_ROWS, CLASSIFICATION_ROWS, VALIDATION_ROWS = 50, 50, 13
NO_DROPOUT: dict[str, dict[str, Any]] = {
    "gpt2": {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
}
_LLAMA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 32},
    "llama": {"model_type": "llama", **_LLAMA},
    "mistral": {"model_type": "mistral", **_LLAMA},
    "qwen2": {"model_type": "qwen2", **_LLAMA},
    "qwen3": {"model_type": "qwen3", **_LLAMA, "head_dim": 8},
    "gemma": {"model_type": "gemma", **_LLAMA, "num_key_value_heads": 1, "head_dim": 8},
    "bert": {
        "model_type": "bert",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 32,
    },
    "distilbert": {"model_type": "distilbert", "dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 4},
}


def task_of(family: str) -> Any:
    return "text-classification" if family in ("bert", "distilbert") else "text-generation"


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words w0, w1, ... and the special tokens; 64 entries."""
    vocabulary = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{index}": index + 3 for index in range(WORDS)}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<eos>", bos_token="<eos>", unk_token="<unk>"
    )


def write_dataset(folder: Path, task: str) -> Path:
    """A prepared dataset in which the next token, or the class, can be learned from the first tokens."""
    folder.mkdir(parents=True)
    make_tokenizer().save_pretrained(folder / "tokenizer")
    is_classifier = task == "text-classification"
    num_rows = CLASSIFICATION_ROWS if is_classifier else GENERATION_ROWS
    make = _classification if is_classifier else _generation
    train, validation = make(num_rows, seed=1), make(VALIDATION_ROWS, seed=2)
    info = DatasetInfo(
        task=task,
        label_names=("no", "yes") if is_classifier else None,
        num_train=num_rows,
        num_validation=VALIDATION_ROWS,
        max_length=MAX_LENGTH,
        pad_token_id=0,
        vocab_size=WORDS + 3,
        num_tokens=sum(len(ids) for ids in train["input_ids"].to_pylist()),
    )
    write_prepared(folder, info, train, validation)
    return folder


def _generation(num_rows: int, *, seed: int) -> pa.Table:
    """Counting up from a random word."""
    starts = np.random.default_rng(seed).integers(0, WORDS, num_rows)
    ids = [[3 + (int(start) + position) % WORDS for position in range(MAX_LENGTH)] for start in starts]
    return pa.table({"input_ids": pa.array(ids, pa.list_(pa.int32())), "text": ["-"] * num_rows})


def _classification(num_rows: int, *, seed: int) -> pa.Table:
    """Rows of unequal length; the class is whether the first word is in the upper half."""
    random = np.random.default_rng(seed)
    ids = [random.integers(3, WORDS + 3, random.integers(4, MAX_LENGTH)).tolist() for _ in range(num_rows)]
    labels = [int(row[0] > WORDS // 2) for row in ids]
    columns = {"input_ids": pa.array(ids, pa.list_(pa.int32())), "label": pa.array(labels, pa.int64())}
    return pa.table({**columns, "text": ["-"] * num_rows})


def model_spec(family: str, *, dropout: bool = False) -> ModelSpec:
    config = CONFIGS[family] | ({} if dropout else NO_DROPOUT.get(family, {}))
    return ModelSpec(task=task_of(family), config=config)


def train_spec(**changes: Any) -> TrainSpec:
    """Twenty steps of batches of 8; keys of ``ParallelSpec`` go into ``parallel``."""
    parallel = {key: changes.pop(key) for key in ParallelSpec.model_fields if key in changes}
    settings = {
        "max_steps": 20,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "warmup_ratio": 0.2,
        "weight_decay": 0.1,
        "lr_scheduler_type": "cosine",
    }
    return TrainSpec.model_validate({**settings, **changes, "parallel": parallel})
