"""Where the models of transformers can be cut: which modules are embeddings, layers, and what comes after them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastserve_ray.errors import ModelError


@dataclass(frozen=True)
class CutPlan:
    """Modules of the base model (``model.base_model``) by their dotted names."""

    layers: str
    """A list of layers, each called with hidden states (B, T, H) first, and returning them."""
    entry: tuple[str, ...]
    """What makes the hidden states of the first layer; on the first stage only."""
    exit: tuple[str, ...]
    """What follows the last layer; on the last stage only, with all that the model has beside its base."""


_LLAMA = CutPlan("layers", ("embed_tokens",), ("norm",))
CUT_PLANS: dict[str, CutPlan] = {
    "bert": CutPlan("encoder.layer", ("embeddings",), ("pooler",)),
    "gemma": _LLAMA,
    "gpt2": CutPlan("h", ("wte", "wpe", "drop"), ("ln_f",)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}


def cut_plan(model: Any) -> CutPlan:
    """The plan for this model.

    Raises:
        ModelError: its type has none.
    """
    kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
    if kind not in CUT_PLANS:
        raise ModelError(
            "this model cannot be cut into stages",
            value=kind,
            allowed=f"a model of type {', '.join(CUT_PLANS)}",
            key="train.parallel.pipeline",
        )
    return CUT_PLANS[kind]
