"""Memory of one worker, estimated before anything starts.

With P parameters and N data-parallel workers, Adam in mixed or full precision needs for each parameter:

==============  ======  =========  =================================
strategy        weight  gradient   optimizer
==============  ======  =========  =================================
one, DDP        4       4          8 (two fp32 moments)
ZeRO-1          w       w          (8 + 4) / N
ZeRO-2          w       w / N      (8 + 4) / N
ZeRO-3          w / N   w / N      (8 + 4) / N
==============  ======  =========  =================================

w is 4 bytes in fp32 and 2 in bf16. The table is section 3 and figure 1 of the ZeRO paper (Rajbhandari et al. 2020,
arXiv 1910.02054; its K = 12 is the 8 + 4 here); DeepSpeed keeps the fp32 master copy (the 4) in fp32 training too.
Without ZeRO, bf16 is autocast over fp32 weights.

Activations follow Korthikanti et al. 2022 (arXiv 2205.05198), equation 2: ``s b h (34 + 5 a s / h)`` bytes a layer in
16 bits, of which 2 and ``a s / h`` are dropout masks of one byte; in 32 bits that is ``s b h (66 + 9 a s / h)``. It
takes an MLP four times as wide as the model and stored attention weights, so it is an upper bound for most. With
gradient checkpointing each layer keeps only its input, and one layer is whole at a time. Generation adds the logits
and their gradient in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.plan.model_size import ModelSize, model_size

if TYPE_CHECKING:
    from fastserve_ray.plan.architecture import Architecture
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec

ADAM_BYTES = 8
MASTER_BYTES = 4
_WIDTH = {"fp32": 4, "bf16": 2, "float32": 4, "bfloat16": 2, "auto": 4}


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one worker or replica; None where it is not known before the model is there."""

    stage: str
    parameters: int | None
    gradients: int | None = 0
    optimizer: int | None = 0
    activations: int | None = 0
    kv_cache: int | None = 0
    reason: str | None = None
    """Why something is None."""

    @property
    def total(self) -> int | None:
        """Sum of the parts; None when one is not known."""
        parts = (self.parameters, self.gradients, self.optimizer, self.activations, self.kv_cache)
        known = [part for part in parts if part is not None]
        return sum(known) if len(known) == len(parts) else None


def estimate_memory(spec: RunSpec) -> tuple[StageMemory, ...]:
    """Memory of ``train``, of one tuning trial's worker and of one serving replica, as far as the spec has them."""
    size = model_size(spec.model)
    stages = []
    if spec.train is not None:
        if spec.tune is not None:
            stages.append(_training("tune", spec, spec.train, size, spec.tune.workers_per_trial))
        stages.append(_training("train", spec, spec.train, size, spec.train.parallel.workers))
    if spec.serve is not None:
        stages.append(_serving(spec, size))
    return tuple(stages)


def training_bytes(num_parameters: int, *, workers: int, zero: int, precision: str) -> tuple[int, int, int]:
    """Bytes of parameters, gradients and optimizer on one worker (the table above)."""
    if zero == 0:
        return 4 * num_parameters, 4 * num_parameters, ADAM_BYTES * num_parameters
    width = _WIDTH[precision]
    share = -(-num_parameters // workers)
    weights = width * (share if zero == 3 else num_parameters)
    gradients = width * (share if zero >= 2 else num_parameters)
    return weights, gradients, (ADAM_BYTES + MASTER_BYTES) * share


def activation_bytes(model: Architecture, *, batch: int, length: int, train: TrainSpec, has_logits: bool) -> int:
    """Bytes that a forward pass keeps for the backward pass (equation 2 of the paper named above).

    Args:
        batch: sequences in the micro batch.
        length: tokens in each.
        train: precision and checkpointing.
        has_logits: whether a score for every word and token is kept.
    """
    tokens = batch * length
    is_half = train.precision == "bf16"
    linear, square = (34, 5) if is_half else (66, 9)
    layer = tokens * (linear * model.hidden_size + square * model.num_heads * length)
    if train.gradient_checkpointing:
        layers = layer + model.num_layers * tokens * model.hidden_size * (2 if is_half else 4)
    else:
        layers = layer * model.num_layers
    return layers + (tokens * model.vocab_size * 2 * 4 if has_logits else 0)


def kv_cache_bytes(model: Architecture, *, tokens: int, width: int) -> int:
    """Keys and values of every layer for ``tokens`` tokens, ``width`` bytes a number."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * width * tokens


def _training(stage: str, spec: RunSpec, train: TrainSpec, size: ModelSize, workers: int) -> StageMemory:
    activations = None
    if size.architecture is not None and spec.data is not None:
        activations = activation_bytes(
            size.architecture,
            batch=max(1, train.batch_size // (workers * train.gradient_accumulation_steps)),
            length=spec.data.max_length,
            train=train,
            has_logits=spec.model.task == "text-generation",
        )
    if size.num_parameters is None:
        return StageMemory(stage, None, None, None, activations, reason=size.reason)
    zero = train.parallel.zero if workers > 1 or stage == "train" else 0
    parameters, gradients, optimizer = training_bytes(
        size.num_parameters, workers=workers, zero=zero, precision=train.precision
    )
    reason = size.reason or (None if activations is not None else "the layers of this model type are not known here")
    return StageMemory(stage, parameters, gradients, optimizer, activations, reason=reason)


def _serving(spec: RunSpec, size: ModelSize) -> StageMemory:
    assert spec.serve is not None
    engine = spec.serve.engine
    width = _WIDTH[engine.dtype]
    parameters = _served_weight_bytes(spec, size, width)
    if spec.model.task != "text-generation":
        return StageMemory("serve", parameters, reason=size.reason)
    if size.architecture is None:
        return StageMemory("serve", parameters, kv_cache=None, reason=size.reason or "the layers are not known here")
    length = engine.max_model_len or size.architecture.num_positions
    tokens = engine.kv_cache_tokens or engine.max_num_seqs * length
    return StageMemory("serve", parameters, kv_cache=kv_cache_bytes(size.architecture, tokens=tokens, width=width))


def _served_weight_bytes(spec: RunSpec, size: ModelSize, width: int) -> int | None:
    """int8 weights take one byte; the table of word embeddings is no linear layer and stays as it is."""
    if size.num_parameters is None:
        return None
    is_quantized = any(step.kind == "quantize" for step in spec.compress)
    if not is_quantized or size.architecture is None:
        return size.num_parameters * width
    embeddings = size.architecture.vocab_size * size.architecture.hidden_size
    return embeddings * width + (size.num_parameters - embeddings)
