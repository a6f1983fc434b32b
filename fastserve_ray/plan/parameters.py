"""How many parameters a model has, to the last one, from its sizes alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.plan.architecture import Architecture

CLASSIFICATION, MASKED = "text-classification", "masked-lm"


def count_parameters(model: Architecture, task: str, num_labels: int = 2) -> int:
    """Trainable parameters of the transformers class that the task loads; tied weights count once.

    Args:
        model: the sizes.
        task: ``text-generation`` (``*ForCausalLM``), ``text-classification`` (``*ForSequenceClassification``) or
            ``masked-lm`` (``BertForPreTraining``, ``*ForMaskedLM``).
        num_labels: classes of a classifier.
    """
    count = {"llama": _llama, "gpt2": _gpt2, "bert": _bert, "distilbert": _distilbert}[model.family]
    return count(model, task, num_labels)


def cut_architecture(model: Architecture, tensor: int) -> Architecture:
    """Sizes of what one of ``tensor`` ranks computes inside the layers: its own heads, and its part of the MLP. The
    stream between them, norms and scores of words are whole on all ranks."""
    return replace(
        model,
        num_heads=model.num_heads // tensor,
        num_kv_heads=max(1, model.num_kv_heads // tensor),
        intermediate_size=-(-model.intermediate_size // tensor),
    )


def words_of_rank(model: Architecture, tensor: int) -> Architecture:
    """Sizes with the words whose embeddings one of ``tensor`` ranks holds."""
    return replace(model, vocab_size=-(-model.vocab_size // tensor))


def largest_tensor(model: Architecture, *, has_table: bool = True) -> int:
    """Parameters of the largest one; GPT-2 has queries, keys and values in one matrix."""
    attention = model.hidden_size * (3 if model.family == "gpt2" else 1)
    return model.hidden_size * max(model.intermediate_size, attention, model.vocab_size if has_table else 0)


def parameters_of_rank(model: Architecture, num_parameters: int, *, tensor: int, num_tables: int) -> int:
    """How many of ``num_parameters`` a rank holds when layers are cut into ``tensor`` parts. Norms, positions, biases
    of what is summed, and heads of classifiers are on all ranks whole; so are keys and values with fewer heads than
    ranks.

    Args:
        model: the sizes; of a stage of a pipeline, with the layers of that stage.
        num_tables: how many of the tables with a row a word, embeddings and scores, are among ``num_parameters``.
    """
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.num_heads * model.head_dim, 2 * model.num_kv_heads * model.head_dim
    if model.num_kv_heads % tensor:
        keys = 0
    attention = (queries + keys) * (hidden + (1 if model.has_attention_bias else 0)) + queries * hidden
    columns = 2 if model.family == "llama" else 1
    mlp = columns * inner * (hidden + (1 if model.has_mlp_bias else 0)) + inner * hidden
    cut = num_tables * model.vocab_size * hidden + model.num_layers * (attention + mlp)
    return num_parameters - cut + -(-cut // tensor)


def _linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    return inputs * outputs + (outputs if bias else 0)


def _llama(model: Architecture, task: str, num_labels: int) -> int:
    hidden, inner = model.hidden_size, model.intermediate_size
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    bias = model.has_attention_bias
    attention = _linear(hidden, queries, bias=bias) + 2 * _linear(hidden, keys, bias=bias)
    attention += _linear(queries, hidden, bias=bias)
    mlp = 2 * _linear(hidden, inner, bias=model.has_mlp_bias) + _linear(inner, hidden, bias=model.has_mlp_bias)
    body = model.vocab_size * hidden + model.num_layers * (attention + mlp + 2 * hidden) + hidden
    if task == CLASSIFICATION:
        return body + _linear(hidden, num_labels, bias=False)
    return body + (0 if model.has_tied_embeddings else model.vocab_size * hidden)


def _gpt2(model: Architecture, task: str, num_labels: int) -> int:
    hidden, inner = model.hidden_size, model.intermediate_size
    norms = 2 * hidden
    attention = _linear(hidden, 3 * hidden) + _linear(hidden, hidden)
    mlp = _linear(hidden, inner) + _linear(inner, hidden)
    body = (model.vocab_size + model.num_positions) * hidden
    body += model.num_layers * (attention + mlp + 2 * norms) + norms
    if task == CLASSIFICATION:
        return body + _linear(hidden, num_labels, bias=False)
    return body + (0 if model.has_tied_embeddings else model.vocab_size * hidden)


def _encoder(model: Architecture) -> int:
    """Embeddings and layers of BERT and DistilBERT."""
    hidden, inner = model.hidden_size, model.intermediate_size
    norm = 2 * hidden
    layer = 4 * _linear(hidden, hidden) + _linear(hidden, inner) + _linear(inner, hidden) + 2 * norm
    embeddings = (model.vocab_size + model.num_positions + model.type_vocab_size) * hidden + norm
    return embeddings + model.num_layers * layer


def _bert(model: Architecture, task: str, num_labels: int) -> int:
    hidden = model.hidden_size
    if task == CLASSIFICATION:
        return _encoder(model) + _linear(hidden, hidden) + _linear(hidden, num_labels)
    head = _linear(hidden, hidden) + 2 * hidden + model.vocab_size
    if task == MASKED:
        head += _linear(hidden, hidden) + _linear(hidden, 2)  # the pooler, and the head for the next sentence
    return _encoder(model) + head + (0 if model.has_tied_embeddings else model.vocab_size * hidden)


def _distilbert(model: Architecture, task: str, num_labels: int) -> int:
    """DistilBERT has no causal head in transformers; its classifier has a dense layer before the output."""
    hidden = model.hidden_size
    if task == MASKED:
        output = 0 if model.has_tied_embeddings else model.vocab_size * hidden
        return _encoder(model) + _linear(hidden, hidden) + 2 * hidden + model.vocab_size + output
    return _encoder(model) + _linear(hidden, hidden) + _linear(hidden, num_labels)
