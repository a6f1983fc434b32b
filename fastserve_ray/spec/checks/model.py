"""Rules about ``model``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.model import TokenizerSpec
from fastserve_ray.spec.problems import Finding, shown

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

    from fastserve_ray.spec.model import ModelSpec
    from fastserve_ray.spec.run import RunSpec

WIDTHS = ("hidden_size", "n_embd", "dim", "d_model")
HEADS = ("num_attention_heads", "n_head", "n_heads", "encoder_attention_heads")
KV_HEADS = ("num_key_value_heads",)
LAYERS = ("num_hidden_layers", "n_layer", "n_layers")
POSITIONS = ("max_position_embeddings", "n_positions")
_COUNTS = (*WIDTHS, *HEADS, *LAYERS, *POSITIONS, *KV_HEADS, "intermediate_size", "vocab_size", "head_dim")


def check_model(spec: RunSpec) -> Iterator[Finding]:
    """One origin, and a config that can be built."""
    model = spec.model
    yield from _origin(model)
    yield from _ignored(model)
    yield from _template(spec)
    if model.config is not None:
        yield from _config(model.config)
        yield from _vocabulary(model, model.config)
        yield from _positions(spec, model.config)


def integer_of(config: dict[str, JsonValue], names: tuple[str, ...]) -> tuple[str, int] | None:
    """The first of ``names`` that ``config`` gives as a positive integer, with its value."""
    for name in names:
        value = config.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return name, value
    return None


def _origin(model: ModelSpec) -> Iterator[Finding]:
    uses = (("model", "base"), ("model", "config"))
    if model.base is None and model.config is None:
        yield Finding(
            ("model",),
            "neither `base` nor `config` is given",
            None,
            "exactly one of model.base and model.config",
            uses=uses,
        )
    if model.base is not None and model.config is not None:
        yield Finding(
            ("model", "config"),
            "`base` and `config` are both given",
            None,
            "exactly one of model.base (a trained model) and model.config (from scratch)",
            uses=uses,
        )


def _ignored(model: ModelSpec) -> Iterator[Finding]:
    base, config = ("model", "base"), ("model", "config")
    if model.tokenizer is not None and model.config is None:
        yield Finding(
            ("model", "tokenizer"),
            "a model that is not from scratch brings its own tokenizer",
            None,
            "model.tokenizer only with model.config",
            uses=(base, config),
        )
    if model.revision is not None and model.base is None:
        yield Finding(
            ("model", "revision"),
            "there is no `base` to take a revision of",
            None,
            "with model.base",
            uses=(base, config),
        )
    if model.num_labels is not None and model.task != "text-classification":
        yield Finding(
            ("model", "num_labels"),
            f"{model.task} has no labels",
            str(model.num_labels),
            "with task text-classification",
            uses=(("model", "task"),),
        )


def _template(spec: RunSpec) -> Iterator[Finding]:
    template, at = spec.model.chat_template, ("model", "chat_template")
    if template is None:
        return
    if spec.model.task != "text-generation":
        uses = (("model", "task"),)
        yield Finding(at, f"{spec.model.task} has no conversations", template[:40], "text-generation", uses=uses)
    if spec.train is None:
        allowed = "with a `train` section; otherwise the model's own template is served"
        yield Finding(at, "nothing is trained that would carry it", template[:40], allowed, uses=(("train",),))


def _config(config: dict[str, JsonValue]) -> Iterator[Finding]:
    at = ("model", "config")
    if not isinstance(config.get("model_type"), str):
        yield Finding(
            (*at, "model_type"), "required key is missing", None, "a model type of transformers, such as llama"
        )
    for name in _COUNTS:
        value = config.get(name)
        if value is not None and integer_of(config, (name,)) is None:
            yield Finding((*at, name), "out of range or of wrong type", shown(value), "an integer greater than 0")
    yield from _divisible(config)


def _divisible(config: dict[str, JsonValue]) -> Iterator[Finding]:
    at = ("model", "config")
    width, heads = integer_of(config, WIDTHS), integer_of(config, HEADS)
    groups = integer_of(config, KV_HEADS)
    if width and heads and width[1] % heads[1] and config.get("head_dim") is None:
        yield Finding(
            (*at, width[0]),
            f"not divisible by {heads[0]} ({heads[1]})",
            str(width[1]),
            f"a multiple of {heads[1]}",
            uses=((*at, heads[0]),),
        )
    if heads and groups and heads[1] % groups[1]:
        yield Finding(
            (*at, groups[0]),
            f"does not divide {heads[0]} ({heads[1]})",
            str(groups[1]),
            f"a divisor of {heads[1]}",
            uses=((*at, heads[0]),),
        )


def _vocabulary(model: ModelSpec, config: dict[str, JsonValue]) -> Iterator[Finding]:
    size = integer_of(config, ("vocab_size",))
    tokenizer = TokenizerSpec() if model.tokenizer is None else model.tokenizer
    if size is None or isinstance(tokenizer, str) or size[1] == tokenizer.vocab_size:
        return
    default = " (its default)" if model.tokenizer is None else ""
    yield Finding(
        ("model", "config", "vocab_size"),
        f"differs from model.tokenizer.vocab_size, {tokenizer.vocab_size}{default}",
        str(size[1]),
        f"leave it out, or set model.tokenizer.vocab_size={size[1]}",
        uses=(("model", "tokenizer"), ("model", "tokenizer", "vocab_size")),
    )


def _positions(spec: RunSpec, config: dict[str, JsonValue]) -> Iterator[Finding]:
    positions = integer_of(config, POSITIONS)
    if positions is None or spec.data is None or positions[1] >= spec.data.max_length:
        return
    yield Finding(
        ("model", "config", positions[0]),
        f"less than data.max_length ({spec.data.max_length})",
        str(positions[1]),
        f"at least {spec.data.max_length}, or a smaller data.max_length",
        uses=(("data", "max_length"),),
    )
