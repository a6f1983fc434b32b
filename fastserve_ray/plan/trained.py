"""How many parameters are trained where an adapter is, from the sizes of the model alone.

The layers that get an update when the file names none are those of peft 0.21.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.adapter import AdaLoraAdapter, Ia3Adapter, LoraAdapter, PrefixAdapter, PromptAdapter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.plan.architecture import Architecture, Family
    from fastserve_ray.spec.adapter import AdapterSpec

Shape = tuple[int, int]
"""Inputs and outputs of a linear layer."""

_LORA_TARGETS: dict[Family, tuple[str, ...]] = {
    "llama": ("q_proj", "v_proj"),
    "gpt2": ("c_attn",),
    "bert": ("query", "value"),
    "distilbert": ("q_lin", "v_lin"),
}


def adapter_parameters(adapter: AdapterSpec, model: Architecture) -> int | None:
    """Parameters that the adapter adds, all of them trained; None where that is known only once it is made."""
    if isinstance(adapter, LoraAdapter | AdaLoraAdapter):
        return _low_rank(adapter, model)
    if isinstance(adapter, PromptAdapter):
        return adapter.num_virtual_tokens * model.hidden_size
    if isinstance(adapter, PrefixAdapter) and adapter.projection_size == 0:
        return adapter.num_virtual_tokens * 2 * model.num_layers * model.num_kv_heads * model.head_dim
    if isinstance(adapter, Ia3Adapter) and adapter.target_modules is None and model.family != "distilbert":
        return model.num_layers * _ia3_width(model)
    return None


def merged_parameters(adapter: AdapterSpec, model: Architecture) -> int:
    """Of the matrices that are copied when the adapter is merged into them, and of what comes beside the copies: one
    update of the largest; for IA3 all of them scaled."""
    if isinstance(adapter, LoraAdapter | AdaLoraAdapter):
        shapes = _shapes(model, adapter.target_modules or _LORA_TARGETS[model.family]) or []
        sizes = [inputs * outputs for inputs, outputs in shapes]
        return model.num_layers * sum(sizes) + max(sizes, default=0)
    if isinstance(adapter, Ia3Adapter):
        return 2 * model.num_layers * model.hidden_size * _ia3_width(model)
    return 0


def _low_rank(adapter: LoraAdapter | AdaLoraAdapter, model: Architecture) -> int | None:
    """Two factors for each layer; AdaLoRA has their singular values besides."""
    shapes = _shapes(model, adapter.target_modules or _LORA_TARGETS[model.family])
    if shapes is None:
        return None
    rank, more = (adapter.lora_r, 0) if isinstance(adapter, LoraAdapter) else (adapter.init_r, 1)
    return model.num_layers * sum(rank * (inputs + outputs + more) for inputs, outputs in shapes)


def _shapes(model: Architecture, names: Iterable[str]) -> list[Shape] | None:
    """Of the layers that the names mean in one layer of the model; None when one is not known here."""
    known = _linears(model)
    found = [known.get(name.rpartition(".")[2]) for name in names]
    return None if None in found else [shape for shapes in found if shapes is not None for shape in shapes]


def _linears(model: Architecture) -> dict[str, tuple[Shape, ...]]:
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    square = ((hidden, hidden),)
    if model.family == "llama":
        return {
            "q_proj": ((hidden, queries),),
            "k_proj": ((hidden, keys),),
            "v_proj": ((hidden, keys),),
            "o_proj": ((queries, hidden),),
            "gate_proj": ((hidden, inner),),
            "up_proj": ((hidden, inner),),
            "down_proj": ((inner, hidden),),
        }
    if model.family == "gpt2":
        return {
            "c_attn": ((hidden, 3 * hidden),),
            "c_fc": ((hidden, inner),),
            "c_proj": (*square, (inner, hidden)),
        }
    if model.family == "bert":
        return {"query": square, "key": square, "value": square}
    attention = dict.fromkeys(("q_lin", "k_lin", "v_lin", "out_lin"), square)
    return {**attention, "lin1": ((hidden, inner),), "lin2": ((inner, hidden),)}


def _ia3_width(model: Architecture) -> int:
    """Keys, values, and what goes into the second matrix of the MLP. GPT-2 has queries, keys and values in one matrix;
    in BERT the name of that second matrix is also that of the attention's output."""
    keys = model.num_kv_heads * model.head_dim
    return (2 * keys if model.family == "llama" else 3 * model.hidden_size) + model.intermediate_size
