"""Which layers of a family are cut for tensor parallelism, and how; for serving and for training. Pure: names and
numbers, no tensors.

A column-parallel layer keeps some of its outputs, a row-parallel one some of its inputs, and what row-parallel layers
return is summed over the ranks (Megatron-LM, arXiv 1909.08053). transformers has plans too (``base_model_tp_plan``),
for DTensors and without GPT-2, OPT and BERT; this table serves all families the same way and works on plain tensors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Unit: TypeAlias = Literal["heads", "kv_heads", "features"]
"""What may not be cut in two: a head, a key and value head, or nothing."""


@dataclass(frozen=True)
class Cut:
    """How one linear layer is cut."""

    side: Literal["outputs", "inputs"]
    parts: tuple[Unit, ...]
    """What stands side by side in one matrix (queries, keys and values in GPT-2); each part is cut on its own."""


HEADS_OUT = Cut("outputs", ("heads",))
KV_HEADS_OUT = Cut("outputs", ("kv_heads",))
QKV_OUT = Cut("outputs", ("heads", "kv_heads", "kv_heads"))
COLUMNS = Cut("outputs", ("features",))
HEADS_IN = Cut("inputs", ("heads",))
ROWS = Cut("inputs", ("features",))

_GATED = {
    "self_attn.q_proj": HEADS_OUT,
    "self_attn.k_proj": KV_HEADS_OUT,
    "self_attn.v_proj": KV_HEADS_OUT,
    "self_attn.o_proj": HEADS_IN,
    "mlp.gate_proj": COLUMNS,
    "mlp.up_proj": COLUMNS,
    "mlp.down_proj": ROWS,
}
PLANS: dict[str, dict[str, Cut]] = {
    "llama": _GATED,
    "qwen2": _GATED,
    "qwen3": _GATED,
    "mistral": _GATED,
    "gemma": _GATED,
    "gemma3_text": _GATED,
    "phi": {
        "self_attn.q_proj": HEADS_OUT,
        "self_attn.k_proj": KV_HEADS_OUT,
        "self_attn.v_proj": KV_HEADS_OUT,
        "self_attn.dense": HEADS_IN,
        "mlp.fc1": COLUMNS,
        "mlp.fc2": ROWS,
    },
    "gpt2": {
        "attn.c_attn": QKV_OUT,
        "attn.c_proj": HEADS_IN,
        "mlp.c_fc": COLUMNS,
        "mlp.c_proj": ROWS,
    },
    "gpt_neox": {
        # queries, keys and values of one head lie side by side, so that heads can be taken whole
        "attention.query_key_value": HEADS_OUT,
        "attention.dense": HEADS_IN,
        "mlp.dense_h_to_4h": COLUMNS,
        "mlp.dense_4h_to_h": ROWS,
    },
    "opt": {
        "self_attn.q_proj": HEADS_OUT,
        "self_attn.k_proj": KV_HEADS_OUT,
        "self_attn.v_proj": KV_HEADS_OUT,
        "self_attn.out_proj": HEADS_IN,
        "fc1": COLUMNS,
        "fc2": ROWS,
    },
}
"""Of decoders, by ``model_type``; the names are those inside a block."""
ENCODER_PLANS: dict[str, dict[str, Cut]] = {
    "bert": {
        "attention.self.query": HEADS_OUT,
        "attention.self.key": HEADS_OUT,
        "attention.self.value": HEADS_OUT,
        "attention.output.dense": HEADS_IN,
        "intermediate.dense": COLUMNS,
        "output.dense": ROWS,
    },
}

_BLOCK = re.compile(r"(?:.+\.)?\d+\.(?P<inside>.+)")
"""A module inside a numbered block: ``model.layers.3.mlp.down_proj``."""


@dataclass(frozen=True)
class Share:
    """What one rank of ``num_shards`` holds of a model with so many heads; ``num_shards`` is a ``possible_shards``."""

    rank: int
    num_shards: int
    num_heads: int
    num_kv_heads: int

    def __post_init__(self) -> None:
        assert 0 <= self.rank < self.num_shards
        assert self.num_shards in possible_shards(self.num_heads, self.num_kv_heads)

    @property
    def heads_here(self) -> int:
        return self.num_heads // self.num_shards

    @property
    def kv_heads_here(self) -> int:
        """One at least: with more ranks than key and value heads, several ranks hold the same one."""
        return max(1, self.num_kv_heads // self.num_shards)

    def bounds(self, unit: Unit, size: int) -> tuple[int, int]:
        """[first, last) of ``size`` rows or columns that hold the layer's units."""
        if unit == "kv_heads" and self.num_kv_heads < self.num_shards:
            head_dim = size // self.num_kv_heads
            head = self.rank * self.num_kv_heads // self.num_shards
            return head * head_dim, (head + 1) * head_dim
        return self.rank * size // self.num_shards, (self.rank + 1) * size // self.num_shards

    def ranges(self, cut: Cut, size: int) -> list[tuple[int, int]]:
        """The runs of ``size`` rows or columns that this rank keeps of a layer, one for each part."""
        weights = [{"heads": self.num_heads, "kv_heads": self.num_kv_heads, "features": 1}[unit] for unit in cut.parts]
        ranges, begin = [], 0
        for unit, weight in zip(cut.parts, weights, strict=True):
            part = size * weight // sum(weights)
            first, last = self.bounds(unit, part)
            ranges.append((begin + first, begin + last))
            begin += part
        return ranges


def possible_shards(num_heads: int, num_kv_heads: int) -> list[int]:
    """Among how many ranks the heads can be shared out evenly."""
    counts = (count for count in range(1, num_heads + 1) if num_heads % count == 0)
    return [count for count in counts if max(num_kv_heads, count) % min(num_kv_heads, count) == 0]


def find_cut(plan: dict[str, Cut], module_name: str) -> Cut | None:
    """The cut of the module with this full name; None when every rank holds it whole."""
    match = _BLOCK.fullmatch(module_name)
    return plan.get(match["inside"]) if match else None
