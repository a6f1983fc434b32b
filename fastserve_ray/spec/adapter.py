"""``train.adapter``: few new weights are trained in place of all old ones."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from fastserve_ray.spec.base import Fraction, ListInput, NonNegativeInt, PositiveFloat, PositiveInt, Section, Words

Names = Annotated[tuple[str, ...], ListInput]


class LoraAdapter(Section):
    """Low-rank updates of chosen matrices, W + (alpha / r) B A (Hu et al. 2021, arXiv 2106.09685). Merged into the
    weights when the model is published."""

    kind: Literal["lora"]
    lora_r: PositiveInt = 8
    """Rank of each update."""
    lora_alpha: PositiveFloat = 16.0
    """The update is multiplied by lora_alpha / lora_r."""
    lora_dropout: Fraction = 0.0
    """Dropout on the input of the updates."""
    target_modules: Names | None = None
    """Last parts of the names of the layers that get one, such as ``q_proj``; left out: the usual ones of the model's
    type, or every linear layer of a type that peft does not know."""


class AdaLoraAdapter(Section):
    """LoRA whose ranks are shared out by importance (Zhang et al. 2023, arXiv 2303.10512). Merged when published."""

    kind: Literal["adalora"]
    init_r: Annotated[int, Field(ge=2)] = 12
    """Rank of each update at the start."""
    target_r: PositiveInt = 8
    """Mean rank at the end."""
    lora_alpha: PositiveFloat = 16.0
    lora_dropout: Fraction = 0.0
    target_modules: Names | None = None
    """As for ``lora``."""
    warmup: Fraction = 0.1
    """Part of all steps before ranks begin to fall."""
    final: Annotated[float, Field(gt=0, lt=1)] = 0.3
    """Part of all steps after they are settled."""
    every_steps: PositiveInt = 10
    """Steps between two changes of ranks."""
    orthogonality: Annotated[float, Field(ge=0)] = 0.5
    """Weight of the term that keeps the factors orthogonal."""


class Ia3Adapter(Section):
    """Learned factors on keys, values and feed-forward activations (Liu et al. 2022, arXiv 2205.05638). Merged when
    published."""

    kind: Literal["ia3"]
    target_modules: Names | None = None
    """Layers whose output, or for ``feedforward_modules`` whose input, is scaled; left out: the usual ones."""
    feedforward_modules: Names | None = None
    """Those of ``target_modules`` whose input is scaled."""


class PromptAdapter(Section):
    """Learned embeddings in front of every text (Lester et al. 2021, arXiv 2104.08691). Cannot be merged: the published
    model has the adapter in a folder beside it, and is not served."""

    kind: Literal["prompt"]
    num_virtual_tokens: PositiveInt = 20
    """How many embeddings; they count as positions."""
    init_text: str | None = None
    """Start from the embeddings of this text; left out: from random words of the vocabulary."""


class PrefixAdapter(Section):
    """Learned keys and values in front of every layer's (Li and Liang 2021, arXiv 2101.00190). Cannot be merged, see
    ``prompt``."""

    kind: Literal["prefix"]
    num_virtual_tokens: PositiveInt = 20
    """How many keys and values a layer gets; they count as positions."""
    projection_size: NonNegativeInt = 0
    """Width of a network that makes them during training; 0: none."""


class OtherAdapter(Section):
    """A class of your own; see ``fastserve_ray.training.adapters.protocol``."""

    kind: Annotated[
        str, Field(pattern=r"^[\w.]+:\w+$"), Words("lora, adalora, ia3, prompt, prefix or package.module:Class")
    ]
    settings: dict[str, JsonValue] = {}
    """What the class takes."""


def _kind(value: object) -> str | None:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "package.module:Class" if isinstance(kind, str) and ":" in kind else kind


AdapterSpec = Annotated[
    Annotated[LoraAdapter, Tag("lora")]
    | Annotated[AdaLoraAdapter, Tag("adalora")]
    | Annotated[Ia3Adapter, Tag("ia3")]
    | Annotated[PromptAdapter, Tag("prompt")]
    | Annotated[PrefixAdapter, Tag("prefix")]
    | Annotated[OtherAdapter, Tag("package.module:Class")],
    Discriminator(_kind),
]
UNMERGED = (PromptAdapter, PrefixAdapter)
"""What no plain Hugging Face model can hold."""
