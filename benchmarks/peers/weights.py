"""The model that all engines are given: random weights, and a tokenizer of the right size."""

from __future__ import annotations

import string
from itertools import islice, product
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from benchmarks.peers.workload import Shape

END = "<|endoftext|>"
SPREAD = 0.05
"""Standard deviation of the weights: so large that attention decides tokens, unlike with the usual 0.02."""


def make_model_folder(shape: Shape, folder: Path) -> None:
    """Write the folder once, float32, the same weights every time."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=shape.vocab_size,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        initializer_range=SPREAD,
        bos_token_id=shape.vocab_size - 1,
        eos_token_id=shape.vocab_size - 1,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    make_tokenizer(shape.vocab_size).save_pretrained(folder)


def make_tokenizer(vocab_size: int) -> Any:
    """Byte-level BPE whose entries are the bytes, strings of printable characters, and an end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = list(islice(_merges(), vocab_size - len(letters) - 1))
    words = [*letters, *(first + second for first, second in merges), END]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, pad_token=END)


def _merges() -> Iterator[tuple[str, str]]:
    """Pairs of printable characters, then pairs of letters with one more character."""
    printable = string.ascii_letters + string.digits + string.punctuation
    yield from product(printable, repeat=2)
    pairs = ("".join(pair) for pair in product(string.ascii_lowercase, repeat=2))
    yield from product(pairs, printable)
