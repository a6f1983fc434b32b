"""What DeepSpeed's ZeRO needs beside the states that it splits; measured with DeepSpeed 0.19.8."""

from __future__ import annotations

from dataclasses import dataclass

BUCKET_ELEMENTS = 50_000_000
"""Gradients exchanged at once at most; DeepSpeed's default of 5e8 reserves 2 GB."""
_EXCHANGES = 8
"""In a step of stage 3, of a small model."""
_REUSED_ELEMENTS = 500_000_000
"""ZeRO-3 keeps gathered weights from the forward to the backward pass where fewer than 1e9 others are used between
(DeepSpeed's ``stage3_max_reuse_distance``): those of the last layers, half of it."""
_FP32 = 4


@dataclass(frozen=True)
class Buffers:
    """Bytes beside states and activations, by the moment at which they are there."""

    always: int = 0
    forward: int = 0
    """From the forward pass to the backward pass of each layer."""
    backward: int = 0
    """From the first gradient on."""
    exchange: int = 0
    """When the last gradients are summed over the workers."""
    update: int = 0
    """Of the optimizer, beside its temporaries for single parameters."""
    end: int = 0
    """When the whole weights are gathered."""


def zero_bucket(zero: int, num_trained: int, largest: int) -> int:
    """Numbers in the buffer of an exchange: DeepSpeed reserves all of it, whatever the model needs. Stage 3 has up to
    three of that size at once, and they shall not take back what it saves.

    Args:
        num_trained: parameters that one rank computes gradients of.
        largest: those of the largest tensor among them.
    """
    enough = max(largest, num_trained // _EXCHANGES) if zero == 3 else num_trained
    return max(1, min(BUCKET_ELEMENTS, num_trained, enough))


def zero_buffers(
    zero: int, *, held: int, trained: int, largest: int, workers: int, width: int, on_gpu: bool, end: int
) -> Buffers:
    """Of stage 1, 2 or 3.

    The update works on one flat tensor: a copy of the gradients in fp32, and on a CPU two temporaries as large. Stage 3
    puts the gradients of a bucket into a new tensor to share it out, of which gloo makes another one.

    Args:
        held: parameters that a rank computes with.
        trained: those that get a gradient.
        largest: those of the largest tensor.
        width: bytes of a weight.
        end: bytes of the gathered weights.
    """
    bucket, share = width * zero_bucket(zero, trained, largest), -(-trained // workers)
    update = _FP32 * share * (2 if on_gpu else 3)
    if zero == 3:
        kept = width * min(held, _REUSED_ELEMENTS) + bucket  # what comes next is gathered ahead
        return Buffers(
            always=bucket, forward=kept, exchange=bucket * (1 if on_gpu else 2), update=update, end=end + width * share
        )
    if zero == 1:
        update = max(0, update - width * (trained - share))  # the other workers' gradients are gone by then
    return Buffers(backward=bucket, update=update, end=end)
