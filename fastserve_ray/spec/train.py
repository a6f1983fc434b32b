"""``train``: how the model is trained and spread."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.adapter import AdapterSpec, Names
from fastserve_ray.spec.base import Fraction, NonNegativeInt, PositiveFloat, PositiveInt, Section

Precision = Literal["fp32", "bf16", "fp16"]


class ParallelSpec(Section):
    """How training is spread over Ray Train workers."""

    workers: PositiveInt = 1
    """Data-parallel workers; each takes ``batch_size / workers`` of a batch. Ray Train starts ``workers x tensor x
    pipeline`` actors."""
    zero: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage (arXiv 1910.02054): 1 splits the optimizer's state over the workers, 2 gradients too, 3
    weights too; 0 is plain DistributedDataParallel."""
    offload: Literal["none", "cpu", "nvme"] = "none"
    """Where ZeRO keeps what it splits: on the device, in host memory (arXiv 2101.06840), or the fp32 weights and
    moments in files on a disk (and the rest in host memory)."""
    offload_folder: str | None = None
    """A folder on a fast local disk of every node, for ``offload: nvme``: 12 bytes a parameter, shared out over the
    workers. Files there have no names and are gone when a worker ends."""
    tensor: PositiveInt = 1
    """Into how many parts each layer is cut (Megatron, arXiv 1909.08053); goes with ``zero`` and ``pipeline``."""
    pipeline: PositiveInt = 1
    """Into how many stages the layers are cut; goes with ``tensor`` and with ``zero`` up to 1."""
    schedule: Literal["gpipe", "1f1b"] = "1f1b"
    """Order of a pipeline's micro batches: all forward passes first (gpipe, arXiv 1811.06965), or one forward, one
    backward (1f1b, arXiv 1806.03377), which keeps fewer activations."""

    balance_stages: Literal["parameters", "time"] = "parameters"
    """What the largest stage has the least of: parameters, or seconds of a forward and backward pass, measured on one
    worker when training starts, where the whole model must fit for that moment."""

    @property
    def num_ranks(self) -> int:
        """Ray Train actors in all."""
        return self.workers * self.tensor * self.pipeline


class WorkerResources(Section):
    """What one worker or replica reserves of its node."""

    CPU: Annotated[float, Field(gt=0)] = 1
    GPU: Annotated[float, Field(ge=0)] = 0


class CheckpointSpec(Section):
    """When training saves what it needs to go on after a crash."""

    every_steps: PositiveInt = 200
    """Optimizer steps between checkpoints."""
    keep: PositiveInt = 2
    """How many of the latest checkpoints stay in storage."""


class TrainSpec(Section):
    """One training run; steps are optimizer steps over global batches."""

    num_epochs: PositiveFloat = 1.0
    """Passes over the training rows."""
    max_steps: PositiveInt | None = None
    """Stop after so many optimizer steps, whatever ``num_epochs`` says."""
    batch_size: PositiveInt = 32
    """Sequences in one optimizer step over all workers."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward and backward passes in one optimizer step; the micro batch is batch_size / workers / this."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Sequences in one forward pass on one worker; the number of passes follows. auto: the largest that fits into the
    memory by the estimate of ``plan``. Left out: as gradient_accumulation_steps says."""
    learning_rate: PositiveFloat = 5e-5
    lr_scheduler_type: Literal["linear", "cosine", "constant"] = "linear"
    """Shape of the learning rate after the warm-up."""
    warmup_ratio: Fraction = 0.0
    """Part of all steps in which the learning rate rises linearly from zero."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled decay (arXiv 1711.05101); biases and norms are left out, embeddings are not."""
    adam_beta1: Fraction = 0.9
    adam_beta2: Fraction = 0.999
    adam_epsilon: PositiveFloat = 1e-8
    max_grad_norm: Annotated[float, Field(ge=0)] = 1.0
    """Global gradient norm is clipped to this; 0 turns clipping off."""
    precision: Precision = "fp32"
    """bf16 trains with autocast; on CPUs without bf16 units it is slower than fp32. fp16 scales the loss, leaves out
    steps whose gradient is no number, and needs a GPU."""
    adapter: AdapterSpec | None = None
    """Train an adapter in place of the model's own weights; left out: full fine-tuning."""
    freeze: Names = ()
    """Name patterns (fnmatch) of parameters that stay as they are, such as ``model.embed_tokens.*``."""
    layer_lr_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Learning rate of a layer over that of the layer above it; the embeddings come below the first layer."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time."""
    parallel: ParallelSpec = ParallelSpec()
    balance: Literal["even", "measured"] = "even"
    """measured: data-parallel workers get shares of a batch by their measured speed, for machines that are not alike.
    A fast one gets at most twice the even share. The result is the same within rounding."""
    resources_per_worker: WorkerResources = WorkerResources()
    eval_every_steps: PositiveInt | None = None
    """Evaluate on the validation rows this often besides at the end; left out: only at the end of each epoch."""
    logging_steps: PositiveInt = 10
    """Steps between two progress events."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    max_failures: NonNegativeInt = 2
    """How often a lost worker restarts training from the last checkpoint before the stage fails."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides initial weights, dropout and the order of rows."""

    @property
    def rows_per_pass(self) -> int:
        """Sequences in one forward pass on one worker; all of its share until ``auto`` is chosen."""
        if isinstance(self.micro_batch_size, int):
            return self.micro_batch_size
        return self.batch_size // (self.parallel.workers * self.gradient_accumulation_steps)

    @property
    def passes_per_step(self) -> int:
        """Forward and backward passes in one optimizer step."""
        return max(1, self.batch_size // (self.parallel.workers * max(1, self.rows_per_pass)))
