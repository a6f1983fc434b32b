"""What a forward pass keeps for the backward pass, counted tensor by tensor.

The counts are those of the layers in transformers 5 with the attention of ``scaled_dot_product_attention``, whose
fused kernels keep one number a head and token in place of the scores (Dao et al. 2022, arXiv 2205.14135). With h the
width of the model, f of the MLP, q = heads x head size, k = key-value heads x head size, a layer keeps for a token

=======  ========================================================================  ==========================
family   around the attention                                                      MLP
=======  ========================================================================  ==========================
llama    6 h (two norms: input, normalized, output), q + 2 k, q (output)           4 f (gate, silu, up, product)
gpt2     4 h (two norms: input, output), 3 h, h (output)                           5 f (tanh form of GELU), or 2 f
bert     4 h (two norms: input, output), 3 h, h (output)                           2 f
=======  ========================================================================  ==========================

numbers of 4 bytes in fp32. What changes them:

- dropout keeps its mask: one byte a number on a GPU, a whole number on a CPU;
- dropout inside the attention has no fused kernel on a CPU: three tables of scores are kept, 12 bytes each entry;
- a padding mask is kept once a layer as a table of numbers, and keys and values are repeated to all heads;
- autocast keeps the residual stream in fp32, and a 16-bit copy of the input of every linear layer and of its weight;
- frozen matrices and norms need no input for a gradient of their own: one output of a norm (for the adapter beside the
  attention) and one tensor of the MLP less are kept;
- gradient checkpointing keeps the input of each layer, and one layer whole at a time;
- the loss needs 12 bytes for a token and word: logits, their logarithm and its gradient in fp32.

Korthikanti et al. 2022 (arXiv 2205.05198), equation 2, is the same count for GPT with stored scores.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.plan.architecture import Architecture

LOSS_BYTES = 12
"""For a token and a word of the vocabulary, while the gradient of the logits is made."""
INPUT_BYTES = 32
"""For a token: ids, mask, labels and positions, 8 bytes each."""
_FP32 = 4
_STATISTICS = 8
"""Of the two norms of a layer, for a token."""
_COPIES = {"llama": 5, "gpt2": 2, "bert": 4, "distilbert": 4}
"""Linear layers behind the two norms of a layer; each has a copy of its input under autocast."""
_MLP_TENSORS = {"gelu_new": 5, "gelu_fast": 5, "relu": 1, "relu2": 2}
"""Tensors of the MLP's width that a layer with this activation keeps, without a gate; 2 for all others."""


@dataclass(frozen=True)
class Batch:
    """One micro batch."""

    size: int
    """Sequences."""
    length: int
    """Tokens in each."""
    has_mask: bool = False
    """Whether the attention gets a table: sequences are padded, or several documents share one."""

    @property
    def tokens(self) -> int:
        return self.size * self.length


@dataclass(frozen=True)
class NumberFormat:
    """Bytes of the numbers in a forward pass."""

    residual: int
    """Of the stream between the layers."""
    linear: int
    """Of inputs and outputs of linear layers."""

    @property
    def is_autocast(self) -> bool:
        return self.residual != self.linear


FULL = NumberFormat(_FP32, _FP32)
AUTOCAST = NumberFormat(_FP32, 2)
HALF = NumberFormat(2, 2)


@dataclass(frozen=True)
class Activations:
    """Bytes of one micro batch by what they belong to."""

    layers: int
    """Kept of all layers at the end of the forward pass."""
    working: int
    """Of the one layer that goes backward: gradients, and with checkpointing its recomputed inside."""
    outside: int
    """Kept before the first layer and after the last, inputs included."""
    loss: int
    """While the gradient of the logits is made; 0 without a vocabulary."""

    @property
    def peak(self) -> int:
        """When they are largest."""
        return self.layers + self.outside + max(self.loss, self.working)


def count_activations(
    model: Architecture,
    batch: Batch,
    numbers: NumberFormat,
    *,
    num_linear: int = 0,
    is_checkpointed: bool = False,
    is_frozen: bool = False,
    has_logits: bool = True,
    on_gpu: bool = False,
) -> Activations:
    """Bytes of a forward and backward pass.

    Args:
        model: the sizes.
        batch: what goes through at once.
        numbers: by precision and strategy.
        num_linear: weights in linear layers, of which autocast keeps copies.
        is_checkpointed: gradient checkpointing of every layer.
        is_frozen: only an adapter is trained.
        has_logits: whether every token gets a score for every word.
        on_gpu: whether kernels are CUDA's.
    """
    hidden = model.hidden_size
    layer = batch.tokens * _layer(model, batch, numbers, is_frozen=is_frozen, on_gpu=on_gpu)
    working = batch.tokens * _gradients(model, batch, numbers, on_gpu=on_gpu)
    kept = batch.tokens * hidden * numbers.residual if is_checkpointed else layer
    outside = INPUT_BYTES + hidden * (2 * numbers.residual + numbers.linear)
    outside += hidden * _dropout_mask(model.dropout, numbers.residual, on_gpu=on_gpu)
    copies = num_linear * numbers.linear if numbers.is_autocast else 0
    return Activations(
        layers=model.num_layers * kept,
        working=working + (layer if is_checkpointed else 0),
        outside=batch.tokens * outside + _mask(batch, numbers) + copies,
        loss=LOSS_BYTES * batch.tokens * model.vocab_size if has_logits else 0,
    )


def _layer(model: Architecture, batch: Batch, numbers: NumberFormat, *, is_frozen: bool, on_gpu: bool) -> int:
    """Bytes that one layer keeps for one token."""
    hidden, linear = model.hidden_size, numbers.linear
    dropout = 2 * hidden * _dropout_mask(model.dropout, linear, on_gpu=on_gpu)
    mlp = (_mlp_tensors(model) - is_frozen) * model.intermediate_size * linear
    return (
        _norms(model, numbers, is_frozen=is_frozen) + _attention(model, batch, numbers, on_gpu=on_gpu) + dropout + mlp
    )


def _norms(model: Architecture, numbers: NumberFormat, *, is_frozen: bool) -> int:
    """Inputs and outputs of the two norms; the outputs are what the linear layers behind them keep."""
    hidden = model.hidden_size
    outputs = (_COPIES[model.family] if numbers.is_autocast else 2) * numbers.linear
    if is_frozen:
        outputs, normalized = outputs // 2, 0
    else:
        normalized = 2 * numbers.residual
    if model.family == "llama":  # normalizes in fp32
        return hidden * (2 * _FP32 + normalized + outputs) + _STATISTICS
    return hidden * (2 * numbers.residual + outputs) + 2 * _STATISTICS


def _attention(model: Architecture, batch: Batch, numbers: NumberFormat, *, on_gpu: bool) -> int:
    """Queries, keys, values, output, and what stands for the scores."""
    queries, keys = model.num_heads * model.head_dim, model.num_kv_heads * model.head_dim
    if _stores_scores(model, on_gpu=on_gpu):
        return 3 * queries * _FP32 + queries * numbers.linear + 3 * model.num_heads * batch.length * _FP32
    if batch.has_mask:
        keys = queries
    table = batch.length * numbers.linear if batch.has_mask else 0
    return (2 * queries + 2 * keys) * numbers.linear + model.num_heads * _FP32 + table


def _stores_scores(model: Architecture, *, on_gpu: bool) -> bool:
    """torch's fused attention on a CPU knows no dropout."""
    return model.attention_dropout > 0 and not on_gpu


def _mlp_tensors(model: Architecture) -> int:
    if model.family == "llama":
        return 3 if model.activation == "relu" else 4
    return _MLP_TENSORS.get(model.activation, 2)


def _dropout_mask(probability: float, width: int, *, on_gpu: bool) -> int:
    if probability == 0:
        return 0
    return 1 if on_gpu else width


def _gradients(model: Architecture, batch: Batch, numbers: NumberFormat, *, on_gpu: bool) -> int:
    """Bytes for a token of what a backward pass makes before it frees what was kept: two gradients of the stream with
    one of the MLP, or with those of the scores, when what the MLP kept is gone."""
    mlp = model.intermediate_size * numbers.linear
    if not _stores_scores(model, on_gpu=on_gpu):
        return mlp + 2 * model.hidden_size * numbers.residual
    freed = _mlp_tensors(model) * model.intermediate_size * numbers.linear
    scores = 3 * model.num_heads * batch.length * _FP32 - freed
    return max(mlp, scores) + 2 * model.hidden_size * numbers.residual


def _mask(batch: Batch, numbers: NumberFormat) -> int:
    """The table that all layers share."""
    return batch.tokens * batch.length * (1 + numbers.linear) if batch.has_mask else 0
