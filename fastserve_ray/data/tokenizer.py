"""The tokenizer of a dataset: the base model's, a named one, or one trained on the training text."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import load_tokenizer
from fastserve_ray.spec.model import TokenizerSpec
from fastserve_ray.spec.template import read_template

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from fastserve_ray.spec.model import ModelSpec

END = "<|endoftext|>"
PAD = "<|pad|>"
MASK = "<|mask|>"
"""In vocabularies for masked-lm, after all others."""
ROLES = ("system", "user", "assistant")
SPECIAL_TOKENS = (END, PAD, *(f"<|{role}|>" for role in ROLES))
MAX_TRAINING_CHARACTERS = 200_000_000
"""Text that the vocabulary is learned from; of longer data every n-th document is taken."""
_BATCH = 1000

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\n' + message['content'] + '<|endoftext|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
"""Turns start with their role's marker and end as documents do, so a model tuned on it stops after its turn."""


def make_tokenizer(model: ModelSpec, texts: Iterable[pa.Array], num_bytes: int) -> Any:
    """The tokenizer that the spec asks for, a ``PreTrainedTokenizerBase`` with a padding and an end token, and with
    ``model.chat_template``.

    Args:
        texts: of the training rows, large_string, a chunk at a time; held-out text never shapes the vocabulary.
        num_bytes: of all texts, about.

    Raises:
        ModelError: it or the template cannot be loaded, or it has no token that ends a text.
    """
    tokenizer = _without_template(model, texts, num_bytes)
    if model.chat_template is not None:
        tokenizer.chat_template = read_template(model.chat_template)
    return tokenizer


def _without_template(model: ModelSpec, texts: Iterable[pa.Array], num_bytes: int) -> Any:
    if model.base is not None:
        tokenizer = load_tokenizer(model.base, revision=model.revision, trust_remote_code=model.trust_remote_code)
    elif isinstance(model.tokenizer, str):
        tokenizer = load_tokenizer(model.tokenizer)
    else:
        return train_bpe(texts, (model.tokenizer or TokenizerSpec()).vocab_size, model.task, num_bytes=num_bytes)
    if model.task == "text-generation" and tokenizer.eos_token_id is None:
        raise ModelError(
            "the tokenizer has no eos_token, which separates documents",
            value=model.base or str(model.tokenizer),
            key="model.base" if model.base else "model.tokenizer",
            hint="name one in the folder's tokenizer_config.json",
        )
    return tokenizer


def train_bpe(texts: Iterable[pa.Array], vocab_size: int, task: str, *, num_bytes: int = 0) -> Any:
    """A byte-level BPE tokenizer (Sennrich et al. 2016; bytes and splits as in GPT-2). The same texts give the same.

    Special tokens come first: end of text (0), padding (1), chat roles. For classification and
    masked-lm each text is put between two end tokens, since encoders read the class off the first position and decoders
    off the last.

    Args:
        texts: large_string, a chunk at a time; how they are cut into chunks changes nothing.
        vocab_size: at most; little text gives fewer entries.
        num_bytes: of all texts, about; a vocabulary is learned from a part of very long ones.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    extra = [MASK] if task == "masked-lm" else []
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[*SPECIAL_TOKENS, *extra],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    with all_cores():
        tokenizer.train_from_iterator(_batches(texts, num_bytes), trainer)
    if task != "text-generation":
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{END} $A {END}",
            pair=f"{END} $A {END} $B:1 {END}:1",
            special_tokens=[(END, tokenizer.token_to_id(END))],
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=END,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=list(SPECIAL_TOKENS[2:]),
        clean_up_tokenization_spaces=False,
        **({"mask_token": MASK, "cls_token": END, "sep_token": END} if extra else {}),
    )
    made.chat_template = CHAT_TEMPLATE
    return made


@contextmanager
def all_cores() -> Iterator[None]:
    """Let ``tokenizers`` use its threads inside; elsewhere they are off, because Ray's workers share the cores."""
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before


def _batches(texts: Iterable[pa.Array], num_bytes: int) -> Iterator[list[str]]:
    """Every n-th text, in lists."""
    stride = max(1, -(-num_bytes // MAX_TRAINING_CHARACTERS))
    offset = 0
    for chunk in texts:
        for start in range(offset, len(chunk), _BATCH * stride):
            yield chunk.slice(start, _BATCH * stride).to_pylist()[::stride]
        offset = (offset - len(chunk)) % stride
