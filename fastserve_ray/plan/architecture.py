"""Sizes of a transformer, read from a Hugging Face config without transformers.

Defaults are those of the config classes in transformers 5 (``LlamaConfig``, ``GPT2Config``, ``BertConfig``,
``DistilBertConfig``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Family = Literal["llama", "gpt2", "bert", "distilbert"]
Config = Mapping[str, object]

_FAMILIES: dict[str, Family] = {
    "llama": "llama",
    "mistral": "llama",
    "gpt2": "gpt2",
    "bert": "bert",
    "distilbert": "distilbert",
}
_VOCABULARY: dict[Family, int] = {"llama": 32000, "gpt2": 50257, "bert": 30522, "distilbert": 30522}


@dataclass(frozen=True)
class Architecture:
    """What parameters, activations and the KV cache are counted from."""

    family: Family
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    num_positions: int
    type_vocab_size: int = 0
    has_tied_embeddings: bool = True
    has_attention_bias: bool = True
    has_mlp_bias: bool = True
    activation: str = "gelu"
    """Between the matrices of the MLP, by its name in transformers."""
    dropout: float = 0.0
    """Of what a layer adds to the stream."""
    attention_dropout: float = 0.0


def read_architecture(config: Config) -> Architecture | None:
    """The sizes in ``config``; None for a model type that is not counted here."""
    family = _FAMILIES.get(str(config.get("model_type")))
    return _READERS[family](_Sizes(config)) if family else None


class _Sizes:
    """Integers of a config, under any of several names."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def integer(self, default: int, *names: str) -> int:
        for name in names:
            value = self._config.get(name)
            if isinstance(value, int) and not isinstance(value, bool):
                return value
        return default

    def flag(self, name: str, default: bool) -> bool:
        value = self._config.get(name)
        return value if isinstance(value, bool) else default

    def number(self, default: float, name: str) -> float:
        value = self._config.get(name)
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else default

    def word(self, default: str, name: str) -> str:
        value = self._config.get(name)
        return value if isinstance(value, str) else default


def _llama(sizes: _Sizes) -> Architecture:
    hidden = sizes.integer(4096, "hidden_size")
    heads = sizes.integer(32, "num_attention_heads")
    return Architecture(
        family="llama",
        vocab_size=sizes.integer(_VOCABULARY["llama"], "vocab_size"),
        hidden_size=hidden,
        num_layers=sizes.integer(32, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=sizes.integer(heads, "num_key_value_heads"),
        head_dim=sizes.integer(hidden // heads, "head_dim"),
        intermediate_size=sizes.integer(11008, "intermediate_size"),
        num_positions=sizes.integer(2048, "max_position_embeddings"),
        has_tied_embeddings=sizes.flag("tie_word_embeddings", False),
        has_attention_bias=sizes.flag("attention_bias", False),
        has_mlp_bias=sizes.flag("mlp_bias", False),
        activation=sizes.word("silu", "hidden_act"),
        attention_dropout=sizes.number(0.0, "attention_dropout"),
    )


def _gpt2(sizes: _Sizes) -> Architecture:
    hidden = sizes.integer(768, "n_embd", "hidden_size")
    heads = sizes.integer(12, "n_head", "num_attention_heads")
    return Architecture(
        family="gpt2",
        vocab_size=sizes.integer(_VOCABULARY["gpt2"], "vocab_size"),
        hidden_size=hidden,
        num_layers=sizes.integer(12, "n_layer", "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=sizes.integer(4 * hidden, "n_inner"),
        num_positions=sizes.integer(1024, "n_positions", "max_position_embeddings"),
        has_tied_embeddings=sizes.flag("tie_word_embeddings", True),
        activation=sizes.word("gelu_new", "activation_function"),
        dropout=sizes.number(0.1, "resid_pdrop"),
        attention_dropout=sizes.number(0.1, "attn_pdrop"),
    )


def _bert(sizes: _Sizes) -> Architecture:
    hidden = sizes.integer(768, "hidden_size")
    heads = sizes.integer(12, "num_attention_heads")
    return Architecture(
        family="bert",
        vocab_size=sizes.integer(_VOCABULARY["bert"], "vocab_size"),
        hidden_size=hidden,
        num_layers=sizes.integer(12, "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=sizes.integer(3072, "intermediate_size"),
        num_positions=sizes.integer(512, "max_position_embeddings"),
        type_vocab_size=sizes.integer(2, "type_vocab_size"),
        has_tied_embeddings=sizes.flag("tie_word_embeddings", True),
        activation=sizes.word("gelu", "hidden_act"),
        dropout=sizes.number(0.1, "hidden_dropout_prob"),
        attention_dropout=sizes.number(0.1, "attention_probs_dropout_prob"),
    )


def _distilbert(sizes: _Sizes) -> Architecture:
    hidden = sizes.integer(768, "dim", "hidden_size")
    heads = sizes.integer(12, "n_heads", "num_attention_heads")
    return Architecture(
        family="distilbert",
        vocab_size=sizes.integer(_VOCABULARY["distilbert"], "vocab_size"),
        hidden_size=hidden,
        num_layers=sizes.integer(6, "n_layers", "num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=hidden // heads,
        intermediate_size=sizes.integer(3072, "hidden_dim"),
        num_positions=sizes.integer(512, "max_position_embeddings"),
        activation=sizes.word("gelu", "activation"),
        dropout=sizes.number(0.1, "dropout"),
        attention_dropout=sizes.number(0.1, "attention_dropout"),
    )


_READERS = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "distilbert": _distilbert}
