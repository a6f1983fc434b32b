"""What all engines are given: a model's shape, and requests as token ids."""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_NUM_SEQS = 16
MAX_MODEL_LEN = 384
"""The longest prompt and the longest completion together; each engine's KV cache holds MAX_NUM_SEQS of them."""
LARGEST_STEP = 2048
"""Tokens in one step at most, for engines that take such a limit."""


@dataclass(frozen=True)
class Shape:
    """A Qwen2 architecture with tied embeddings."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int


FULL_SHAPE = Shape("qwen2-387m", 32_000, 896, 24, 4864, 14, 2)
QUICK_SHAPE = Shape("qwen2-4m", 4096, 256, 4, 768, 4, 2)


@dataclass(frozen=True)
class Asked:
    """One request, greedy, end tokens ignored."""

    prompt: tuple[int, ...]
    length: int
    """Tokens to generate."""
    at: float = 0.0
    """Seconds from the beginning of the round until it comes."""


@dataclass(frozen=True)
class Workload:
    """Lengths of requests that are there at once: (prompt tokens, completion tokens) of each."""

    name: str
    lengths: tuple[tuple[int, int], ...]

    @property
    def num_completion_tokens(self) -> int:
        return sum(length for _, length in self.lengths)

    def draw(self, vocab_size: int, seed: int) -> list[Asked]:
        """Prompts that no other ``seed`` gives, so that no prefix cache knows them."""
        source = random.Random(f"{self.name} {seed}")
        return [
            Asked(tuple(source.randrange(vocab_size // 2) for _ in range(prompt)), length)
            for prompt, length in self.lengths
        ]


def mixed_batch(num_requests: int = MAX_NUM_SEQS) -> Workload:
    """Prompts of 32 to 256 tokens, completions of 16 to 128."""
    source = random.Random(0)
    return Workload("batch", tuple((source.randint(32, 256), source.randint(16, 128)) for _ in range(num_requests)))


def single_decode(length: int = 64) -> Workload:
    """One request with a short prompt."""
    return Workload("single", ((32, length),))
