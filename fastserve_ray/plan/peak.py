"""The most memory that a training step takes at once.

Activations go as gradients come, so the peak is less than the sum of the parts. It is at one of five moments: when the
gradient of the logits is made, in the backward pass of the last layer (all activations, few gradients), in that of the
first (few activations, all gradients), in the optimizer's update (its temporaries), or when worker 0 gathers the whole
weights at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.plan.zero import Buffers

if TYPE_CHECKING:
    from fastserve_ray.plan.activations import Activations
    from fastserve_ray.plan.architecture import Architecture

_FP32 = 4
_UPDATE_TENSORS = 2
"""Temporaries of AdamW for one parameter on a CPU, where it goes from one to the next."""


@dataclass(frozen=True)
class States:
    """Bytes that one worker holds of the model."""

    parameters: int
    gradients: int
    optimizer: int


def training_peak(
    states: States,
    activations: Activations,
    model: Architecture,
    *,
    keeps_gradients: bool,
    on_gpu: bool,
    buffers: Buffers | None = None,
) -> int:
    """Bytes of one worker at the highest of the five moments.

    Args:
        states: of the worker.
        activations: of its micro batch.
        model: the sizes; of a rank's share of the vocabulary.
        keeps_gradients: gradients are there before the backward pass: those of an earlier micro batch, or ZeRO's
            partitions.
        buffers: of exchanges.
        on_gpu: the optimizer updates all parameters at once, with a temporary for each.
    """
    beside = buffers or Buffers()
    embedding = _FP32 * model.vocab_size * model.hidden_size
    kept = states.gradients if keeps_gradients else 0
    rest = states.parameters + states.optimizer + kept
    head = min(embedding, states.gradients - kept) if activations.loss else 0
    forward = rest + activations.outside + activations.layers + beside.forward
    temporaries = states.gradients if on_gpu else min(_UPDATE_TENSORS * embedding, _UPDATE_TENSORS * states.gradients)
    is_tied = activations.loss and model.has_tied_embeddings
    twice = min(embedding, states.gradients) if is_tied else 0
    first_layer = max(twice, activations.layers // model.num_layers + activations.working)
    return beside.always + max(
        forward + activations.loss,
        forward + activations.working + head + beside.backward,
        rest + (states.gradients - kept) + beside.backward + max(first_layer, beside.exchange),
        states.parameters + states.gradients + states.optimizer + max(temporaries, beside.update),
        states.parameters + states.optimizer + beside.end,
    )
