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

w is 4 bytes in fp32 and 2 in bf16 and fp16. The table is section 3 and figure 1 of the ZeRO paper (Rajbhandari et al.
2020, arXiv 1910.02054; its K = 12 is the 8 + 4 here); DeepSpeed keeps the fp32 master copy (the 4) in fp32 training
too. Without ZeRO, both are autocast over fp32 weights.

A stage of a pipeline holds its own part of P, and tied embeddings on the first and the last (``plan/pipeline.py``);
where layers are cut, a rank holds its share of that (``plan/parameters.py``).
With an adapter, gradients and optimizer are those of its few parameters.

What is kept of a forward pass is counted in ``plan/activations.py``, the peak of all of it in ``plan/peak.py``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from fastserve_ray.plan.activations import AUTOCAST, FULL, HALF, Activations, Batch, NumberFormat, count_activations
from fastserve_ray.plan.model_size import ModelSize, model_size
from fastserve_ray.plan.parameters import cut_architecture, largest_tensor, parameters_of_rank, words_of_rank
from fastserve_ray.plan.peak import States, training_peak
from fastserve_ray.plan.pipeline import heaviest_stage, stage_sizes, stage_states
from fastserve_ray.plan.publishing import gathered_bytes
from fastserve_ray.plan.trained import adapter_parameters, merged_parameters
from fastserve_ray.plan.zero import Buffers, zero_buffers

if TYPE_CHECKING:
    from fastserve_ray.plan.architecture import Architecture
    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec

ADAM_BYTES = 8
MASTER_BYTES = 4
_WIDTH = {"fp32": 4, "bf16": 2, "fp16": 2, "float32": 4, "bfloat16": 2, "auto": 4}


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

    at_once: int | None = None
    """The most that all of it takes at once; None: the sum."""

    @property
    def peak(self) -> int | None:
        """The most that is alive at once; None when a part is not known. Less than the sum of the parts in training,
        since gradients come as activations go."""
        parts = (self.parameters, self.gradients, self.optimizer, self.activations, self.kv_cache)
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        return sum(known) if self.at_once is None else self.at_once


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


def training_bytes(
    num_parameters: int, *, workers: int, zero: int, precision: str, num_trained: int | None = None
) -> tuple[int, int, int]:
    """Bytes of parameters, gradients and optimizer on one worker (the table above).

    Args:
        num_trained: how many of the parameters are trained; None: all.
    """
    trained = num_parameters if num_trained is None else num_trained
    if zero == 0:
        return 4 * num_parameters, 4 * trained, ADAM_BYTES * trained
    width = _WIDTH[precision]
    share = -(-num_parameters // workers)
    weights = width * (share if zero == 3 else num_parameters)
    trained_share = -(-trained // workers)
    gradients = width * (trained_share if zero >= 2 else trained)
    return weights, gradients, (ADAM_BYTES + MASTER_BYTES) * trained_share


def train_activations(
    model: Architecture, train: TrainSpec, *, task: str, num_parameters: int, batch: int, length: int
) -> Activations:
    """Bytes that a forward and backward pass of one micro batch needs on one rank beside the states.

    Args:
        model: the sizes.
        train: precision, checkpointing, strategy and device.
        task: decides whether there are logits. The attention gets a mask in every task: rows are padded, or hold
            several documents.
        num_parameters: of the whole model.
        batch: sequences in the micro batch.
        length: tokens in each.
    """
    has_logits = task != "text-classification"
    tables = (model.vocab_size + model.num_positions) * model.hidden_size
    untied = has_logits and not model.has_tied_embeddings
    head = model.vocab_size * model.hidden_size if has_logits else 0
    tensor = train.parallel.tensor
    return count_activations(
        cut_architecture(model, tensor),
        Batch(batch, length, has_mask=True),
        number_format(train),
        num_linear=max(0, num_parameters - tables + (0 if untied else head)) // tensor,
        is_checkpointed=train.gradient_checkpointing,
        is_frozen=train.adapter is not None,
        has_logits=has_logits,
        on_gpu=train.resources_per_worker.GPU > 0,
    )


def number_format(train: TrainSpec) -> NumberFormat:
    """DeepSpeed turns the model itself into 16 bits; elsewhere, and in a pipeline, that is autocast."""
    if train.precision == "fp32":
        return FULL
    return HALF if train.parallel.zero and train.parallel.pipeline == 1 else AUTOCAST


def kv_cache_bytes(model: Architecture, *, tokens: int, width: int) -> int:
    """Keys and values of every layer for ``tokens`` tokens, ``width`` bytes a number."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * width * tokens


def _training(stage: str, spec: RunSpec, train: TrainSpec, size: ModelSize, workers: int) -> StageMemory:
    if size.num_parameters is None:
        return StageMemory(stage, None, None, None, None, reason=size.reason)
    zero = train.parallel.zero if workers > 1 or stage == "train" else 0
    added = 0
    if train.adapter is not None:
        found = None if size.architecture is None else adapter_parameters(train.adapter, size.architecture)
        if found is None:
            return StageMemory(stage, None, None, None, None, reason="what the adapter adds is known once it is made")
        added = found
    states = training_states(size, train, task=spec.model.task, workers=workers, zero=zero, added=added)
    if size.architecture is None or spec.data is None:
        reason = size.reason or "the layers of this model type are not known here"
        return StageMemory(stage, states.parameters, states.gradients, states.optimizer, None, reason=reason)
    rows = max(1, train.rows_per_pass)
    if train.micro_batch_size is None:
        rows = max(1, train.batch_size // (workers * train.gradient_accumulation_steps))
    activations = train_activations(
        size.architecture,
        train,
        task=spec.model.task,
        num_parameters=size.num_parameters,
        batch=rows,
        length=spec.data.max_length,
    )
    if stage == "train" and train.parallel.pipeline > 1:
        return _pipeline(spec, train, size, activations)
    peak = training_peak(
        states,
        activations,
        words_of_rank(size.architecture, train.parallel.tensor),
        keeps_gradients=zero == 3 or train.batch_size > workers * rows,
        on_gpu=train.resources_per_worker.GPU > 0,
        buffers=_buffers(size, train, states, task=spec.model.task, workers=workers, zero=zero, added=added),
    )
    return StageMemory(
        stage, states.parameters, states.gradients, states.optimizer, activations.peak, reason=size.reason, at_once=peak
    )


def _buffers(
    size: ModelSize, train: TrainSpec, states: States, *, task: str, workers: int, zero: int, added: int
) -> Buffers:
    """DDP exchanges in buckets as large as the gradients."""
    assert size.architecture is not None
    assert size.num_parameters is not None
    held, on_gpu = _cut_parameters(size, train, task=task) + added, train.resources_per_worker.GPU > 0
    end = gathered_bytes(train, size.architecture, whole=size.num_parameters + added)
    if train.adapter is not None and not on_gpu:
        end += _WIDTH["fp32"] * merged_parameters(train.adapter, size.architecture)
    if zero == 0:
        return Buffers(always=states.gradients if workers > 1 else 0, end=end)
    buffers = zero_buffers(
        zero,
        held=held,
        trained=added or held,
        largest=-(-largest_tensor(size.architecture) // train.parallel.tensor),
        workers=workers,
        width=_WIDTH[train.precision],
        on_gpu=on_gpu,
        end=end,
    )
    return replace(buffers, update=0) if on_gpu and _is_offloaded(train) else buffers


def training_states(size: ModelSize, train: TrainSpec, *, task: str, workers: int, zero: int, added: int = 0) -> States:
    """Bytes of one rank's share of the weights, gradients and optimizer, on its device: what is offloaded from a GPU,
    or to a disk, is not there.

    Args:
        added: parameters of an adapter, which alone are trained.
    """
    count = _cut_parameters(size, train, task=task)
    parts = training_bytes(
        count + added, workers=workers, zero=zero, precision=train.precision, num_trained=added or None
    )
    states = States(*parts)
    if zero and _is_offloaded(train):
        is_empty = zero == 3 and train.resources_per_worker.GPU > 0
        return States(0 if is_empty else states.parameters, states.gradients, 0)
    return states


def _is_offloaded(train: TrainSpec) -> bool:
    """Whether ZeRO's states lie elsewhere than on the worker's device."""
    offload = train.parallel.offload
    return offload == "nvme" or (offload == "cpu" and train.resources_per_worker.GPU > 0)


def _cut_parameters(size: ModelSize, train: TrainSpec, *, task: str) -> int:
    """What a rank of a tensor group holds, before ZeRO splits it."""
    assert size.num_parameters is not None
    if train.parallel.tensor == 1 or size.architecture is None:
        return size.num_parameters
    has_scores = task != "text-classification" and not size.architecture.has_tied_embeddings
    return parameters_of_rank(
        size.architecture, size.num_parameters, tensor=train.parallel.tensor, num_tables=2 if has_scores else 1
    )


def most_states(size: ModelSize, train: TrainSpec, *, task: str) -> States:
    """Bytes of weights, gradients and optimizer on the rank that holds the most."""
    parallel = train.parallel
    if parallel.pipeline == 1 or size.architecture is None:
        return training_states(size, train, task=task, workers=parallel.workers, zero=parallel.zero)
    stages = stage_sizes(size.architecture, task, parallel.pipeline, tensor=parallel.tensor)
    every = [stage_states(train, stage) for stage in stages]
    return max(every, key=lambda states: states.parameters + states.gradients + states.optimizer)


def _pipeline(spec: RunSpec, train: TrainSpec, size: ModelSize, activations: Activations) -> StageMemory:
    """Of the stage that needs the most; nothing is known of more stages than layers, which are refused."""
    model, whole = size.architecture, size.num_parameters
    assert model is not None
    assert whole is not None
    if train.parallel.pipeline > model.num_layers:
        return StageMemory("train", None, None, None, None, reason="there are more stages than layers")
    parallel = train.parallel
    sizes = stage_sizes(model, spec.model.task, parallel.pipeline, spec.model.num_labels or 2, tensor=parallel.tensor)
    states, kept, peak = heaviest_stage(
        model,
        train,
        activations,
        sizes=sizes,
        num_micro_batches=train.passes_per_step,
        gathered=gathered_bytes(train, model, whole=whole, held=sizes[0].num_parameters),
    )
    return StageMemory("train", states.parameters, states.gradients, states.optimizer, kept.peak, at_once=peak)


def _serving(spec: RunSpec, size: ModelSize) -> StageMemory:
    assert spec.serve is not None
    engine = spec.serve.engine
    width = _WIDTH[engine.dtype]
    parameters = _served_weight_bytes(spec, size, width)
    parameters = None if parameters is None else -(-parameters // spec.serve.shards.tensor)
    if spec.model.task != "text-generation":
        return StageMemory("serve", parameters, reason=size.reason)
    if size.architecture is None:
        return StageMemory("serve", parameters, kv_cache=None, reason=size.reason or "the layers are not known here")
    length = engine.max_model_len or size.architecture.num_positions
    tokens = engine.kv_cache_tokens or engine.max_num_seqs * length
    local = _heads_of_shard(size.architecture, spec.serve.shards.tensor)
    return StageMemory("serve", parameters, kv_cache=kv_cache_bytes(local, tokens=tokens, width=width))


def _heads_of_shard(model: Architecture, tensor: int) -> Architecture:
    """``model`` with the key and value heads that one of ``tensor`` shards holds: one at least."""
    return replace(model, num_kv_heads=max(1, model.num_kv_heads // tensor))


def _served_weight_bytes(spec: RunSpec, size: ModelSize, width: int) -> int | None:
    """int8 weights take one byte; the table of word embeddings is no linear layer and stays as it is."""
    if size.num_parameters is None:
        return None
    is_quantized = any(step.kind == "quantize" for step in spec.compress)
    if not is_quantized or size.architecture is None:
        return size.num_parameters * width
    embeddings = size.architecture.vocab_size * size.architecture.hidden_size
    return embeddings * width + (size.num_parameters - embeddings)
