"""``model``: what is trained or served."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, JsonValue

from fastserve_ray.spec.base import PositiveInt, Section

TaskName = Literal["text-generation", "text-classification", "text-embedding", "masked-lm"]
NEXT_SENTENCE_TYPES = frozenset({"bert", "ernie", "megatron-bert", "mobilebert"})
"""Model types whose pre-training class in transformers has a head for the next sentence."""


class TokenizerSpec(Section):
    """A tokenizer trained on the training text, for a model from scratch."""

    kind: Literal["bpe"] = "bpe"
    """Byte-level BPE (Sennrich et al. 2016; bytes as in GPT-2), so no input is ever unknown."""
    vocab_size: int = Field(default=4096, ge=300, le=1_000_000)
    """Entries in the vocabulary, special tokens counted; at least the 256 bytes and the special tokens."""


class ModelSpec(Section):
    """Either ``base`` (a trained model) or ``config`` (a model from scratch)."""

    task: TaskName = "text-generation"
    """What the model is for; decides columns, loss, metrics and the endpoints. A ``masked-lm`` is pre-trained to be
    fine-tuned (``model.base: run@train``), and is not served; a ``text-embedding`` model is only served."""
    base: str | None = None
    """A hub id, a folder, a storage URI, or an artifact reference ``run@stage`` / ``artifact:ID``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    config: dict[str, JsonValue] | None = None
    """Keys of a Hugging Face config, with ``model_type``; the weights start at random from ``seed``."""
    tokenizer: TokenizerSpec | str | None = None
    """With ``config``: a tokenizer to train, or the hub id or folder of one to reuse. Default: train one."""
    chat_template: str | None = None
    """Jinja text, or a file that holds it: how conversations are written as text, in training and when served; left
    out: the tokenizer's own."""
    num_labels: PositiveInt | None = None
    """Classes of a classifier; read from the data when left out."""
    trust_remote_code: bool = False
    """Run Python code that comes with a hub model. Only for authors you trust."""
