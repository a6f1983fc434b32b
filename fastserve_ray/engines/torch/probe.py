"""A check at start-up that the replaced attention computes what the model computes.

Families differ in ways that no flag tells (position biases outside attention, layers that mix neighbours in the row).
So a few tokens of two made-up sequences run both ways. It finds wrong structure, not rounding: the tolerance leaves
room for bf16 and for int8 activations whose scale depends on the batch.
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastserve_ray.engines.torch.attention import running
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvCache, LayerShape
from fastserve_ray.engines.torch.paged.step import PagedCache, PagedLimits, mixed_step
from fastserve_ray.engines.torch.ragged import RaggedStep, Span
from fastserve_ray.engines.torch.runner import forward
from fastserve_ray.errors import EngineError, FastServeError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastserve_ray.engines.torch.attention import Step
    from fastserve_ray.engines.torch.paged.kernels import PagedKernel

LENGTHS = (4, 6)
"""Tokens of the two sequences, shorter first; each is read in two chunks, the last of one token."""
TOLERANCE = 0.1
"""Largest difference of a logit, relative to the largest logit."""


@contextmanager
def refusing(model: Any) -> Iterator[None]:
    """Turn whatever a model's code raises, when it is called as the engine calls it, into the engine's refusal."""
    try:
        yield
    except FastServeError:
        raise
    except (TypeError, ValueError, RuntimeError, AttributeError, LookupError, NotImplementedError) as error:
        raise EngineError(
            f"{type(model).__name__} cannot be run in ragged batches: {type(error).__name__}: {error}", key="model.base"
        ) from error


@torch.inference_mode()
def reference_logits(model: Any) -> list[torch.Tensor]:
    """Logits (vocabulary,) after each sequence, one at a time, by the model as it was loaded."""
    return [
        model(input_ids=torch.tensor([ids], device=model.device), use_cache=False).logits[0, -1].float()
        for ids in _sequences(model)
    ]


@torch.inference_mode()
def check_logits(
    model: Any, layers: list[LayerShape], expected: list[torch.Tensor], kernel: PagedKernel | None = None
) -> None:
    """Compare the model with replaced attention to ``expected``, of `reference_logits`.

    Args:
        kernel: attention by this kernel; None for the gather path.

    Raises:
        EngineError: the logits differ, so the engine would give other completions than the model.
    """
    cache = KvCache(layers, (len(LENGTHS) + 1) * BLOCK_SIZE, model.device, is_zeroed=kernel is not None)
    make_step: Callable[[list[Span]], Step] = partial(RaggedStep, cache)
    if kernel is not None:
        limits = PagedLimits(len(LENGTHS), max(LENGTHS), max(LENGTHS))
        make_step = partial(mixed_step, PagedCache(cache, kernel, limits))
    _read(model, make_step, [(0, length - 1) for length in LENGTHS])
    logits = _read(model, make_step, [(length - 1, length) for length in LENGTHS])
    scale = max(float(row.abs().max()) for row in expected)
    error = max(float((row - want).abs().max()) for row, want in zip(logits, expected, strict=True))
    if not error <= TOLERANCE * scale:
        raise EngineError(
            f"{type(model).__name__} gives other logits in a ragged batch than alone",
            value=f"difference {error:.3g} at a scale of {scale:.3g}",
            key="model.base",
            hint="its layers use the row's neighbours or a position bias, which the torch engine does not support",
        )


def _sequences(model: Any) -> list[list[int]]:
    """Made-up tokens, spread over the vocabulary."""
    vocab_size = model.config.get_text_config().vocab_size
    return [[(17 + 7919 * (length + at)) % vocab_size for at in range(length)] for length in LENGTHS]


def _read(model: Any, make_step: Callable[[list[Span]], Step], bounds: list[tuple[int, int]]) -> list[torch.Tensor]:
    """One step over positions [start, end) of each sequence; the logits of each one's last token."""
    ids: list[int] = []
    positions: list[int] = []
    spans: list[Span] = []
    for at, (sequence, (start, end), length) in enumerate(zip(_sequences(model), bounds, LENGTHS, strict=True)):
        slots = np.arange(at * BLOCK_SIZE, at * BLOCK_SIZE + length)
        spans.append(Span(len(ids), start, end - start, slots, is_contiguous=True))
        ids += sequence[start:end]
        positions += range(start, end)
    last_rows = [span.row + span.num_tokens - 1 for span in spans]
    row, row_positions, keep = (torch.tensor(values, device=model.device) for values in (ids, positions, last_rows))
    with running(make_step(spans)):
        return list(forward(model, row, row_positions, keep).float())
