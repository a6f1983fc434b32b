"""The runner: chunks of sequences in, logits of their last tokens out.

Owns the model and the KV cache's tensors. The model's attention is replaced, so that a step is one forward pass over
one row of tokens, whatever mix of decoding and prompts it holds.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastserve_ray.engines.torch.attention import ATTENTION_NAME, ProbeStep, running, step_attention
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvCache, KvOps, LayerShape
from fastserve_ray.engines.torch.paged.forward import PagedForward
from fastserve_ray.engines.torch.paged.step import PagedCache
from fastserve_ray.engines.torch.profile import Profile
from fastserve_ray.engines.torch.ragged import RaggedStep, Span
from fastserve_ray.engines.torch.swap import Swapper
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.paged.kernels import PagedKernel
    from fastserve_ray.engines.torch.paged.step import PagedLimits
    from fastserve_ray.engines.torch.scheduler import Chunk, StepPlan

LAYER_TYPES = ("full_attention", "sliding_attention")
"""Kinds of layers, as configurations of transformers call them."""


def adopt(model: Any) -> list[LayerShape]:
    """Replace the attention of ``model`` (a transformers causal LM, changed in place) and find its layers' shapes.

    Raises:
        EngineError: the model does not take its attention from outside, or needs what this engine does not do.
    """
    from transformers import AttentionInterface

    name = type(model).__name__
    takes_attention = getattr(model, "_supports_attention_backend", False) and hasattr(model, "set_attn_implementation")
    if not takes_attention or not model._can_set_attn_implementation():
        raise EngineError(
            f"{name} does not take its attention from outside, so the torch engine cannot run it",
            allowed="models of transformers with _supports_attention_backend (Llama, Qwen, Mistral, GPT-2, OPT, ...)",
            key="model.base",
        )
    AttentionInterface.register(ATTENTION_NAME, step_attention)
    model.eval()
    model.set_attn_implementation(ATTENTION_NAME)
    probe = ProbeStep()
    two = torch.arange(2, device=model.device)
    with torch.inference_mode(), running(probe):
        forward(model, ids=two, positions=two, keep=two)
    _check_layers(model, probe.layers)
    return probe.layers


def _check_layers(model: Any, layers: Sequence[LayerShape]) -> None:
    config = model.config.get_text_config()
    for layer, kind in zip(layers, getattr(config, "layer_types", None) or (), strict=False):
        if kind not in LAYER_TYPES or (kind == "sliding_attention" and layer.sliding_window is None):
            raise EngineError(
                f"{type(model).__name__} has a layer of kind {kind}, which the torch engine does not support",
                allowed=", ".join(LAYER_TYPES),
                key="model.base",
            )
    expected = config.num_hidden_layers
    if len(layers) != expected:
        raise EngineError(
            f"{type(model).__name__} runs {len(layers)} attention layers where its configuration has {expected}",
            allowed="one causal self-attention in every layer",
            key="model.base",
            hint="recurrent, hybrid and encoder-decoder models are not supported by the torch engine",
        )


@dataclass(frozen=True)
class StepInput:
    """What one rank needs to run a step: plain values, so that it can be sent to other processes."""

    ids: list[int]
    """(T,) tokens of all sequences, side by side."""
    positions: np.ndarray
    """(T,) int64: the place of each in its sequence."""
    spans: list[Span]
    """Whose they are; sequences with one token first, shorter ones before longer ones."""
    keep: list[int]
    """(N,) rows whose logits are wanted."""
    kv: KvOps
    """What happens in the cache before the tokens are read."""


class Runner:
    """Runs steps. Not thread-safe.

    Args:
        model: as `adopt` left it.
        num_slots: tokens in the KV cache.
        num_host_slots: tokens in the pool that swapped sequences go to; 0 for none.
        paged: attention by this kernel, for steps within these limits; None for the gather path.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[LayerShape],
        num_slots: int,
        num_host_slots: int = 0,
        *,
        paged: tuple[PagedKernel, PagedLimits] | None = None,
    ) -> None:
        self._model = model
        self._device = model.device
        self.paged: PagedForward | None = None
        if paged is None:
            self._cache = KvCache(layers, num_slots, model.device)
        else:
            self._cache = KvCache(layers, num_slots + BLOCK_SIZE, model.device, is_zeroed=True)
            self.paged = PagedForward(PagedCache(self._cache, *paged), partial(forward, model))
        self._swapper = Swapper(self._cache, layers, num_host_slots)

    def run(self, plan: StepPlan) -> tuple[list[Chunk], torch.Tensor]:
        """Read the plan's tokens into the cache.

        Returns:
            the chunks that end their sequences so far, and for each the logits of the next token (N, vocabulary).
        """
        ordered = sorted(plan.chunks, key=lambda chunk: (chunk.num_tokens > 1, chunk.start))
        spans = _spans(ordered)
        ending = [at for at, chunk in enumerate(ordered) if chunk.ends_sequence]
        step = StepInput(
            ids=[token for chunk in ordered for token in _tokens(chunk)],
            positions=np.concatenate([np.arange(span.start, span.end) for span in spans]) if spans else _NO_POSITIONS,
            spans=spans,
            keep=[spans[at].row + spans[at].num_tokens - 1 for at in ending],
            kv=plan.kv,
        )
        return [ordered[at] for at in ending], self.execute(step)

    @torch.inference_mode()
    def execute(self, step: StepInput) -> torch.Tensor:
        """Logits (N, vocabulary) of the rows that the step keeps. A step without tokens only moves blocks."""
        self._swapper.join()
        self._cache.copy_blocks(step.kv.copies)
        self._swapper.begin(step.kv)
        if not step.ids:
            return torch.empty(0, 0)
        if self.paged is not None:
            return self.paged.run(step)
        with running(RaggedStep(self._cache, step.spans)):
            return forward(
                self._model,
                torch.tensor(step.ids, device=self._device),
                torch.from_numpy(step.positions).to(self._device),
                torch.tensor(step.keep, dtype=torch.int64, device=self._device),
            )

    @property
    def seconds_swapping(self) -> float:
        """How long steps have waited for swaps, in all."""
        return self._swapper.seconds_waited

    def close(self) -> None:
        """End the thread that swaps."""
        self._swapper.close()


PROFILED_TOKENS = (16, 128)
"""Prompt lengths that `measure_profile` times; longer ones follow by extrapolation, since a long step costs seconds."""
PROFILE_ROUNDS = 2


def measure_profile(runner: Runner, max_tokens: int) -> Profile:
    """Time steps of prompts and one of decoding, each the fastest of some rounds; over an empty cache.

    Args:
        max_tokens: tokens in a step at most.
    """
    lengths = sorted({min(length, max_tokens) for length in PROFILED_TOKENS})
    prefill = tuple((length, _fastest(runner, 0, length)) for length in lengths)
    return Profile(prefill=prefill, decode_seconds=_fastest(runner, lengths[-1] - 1, 1))


def _fastest(runner: Runner, start: int, num_tokens: int) -> float:
    """Seconds of a step that reads positions [start, start + num_tokens) of one sequence at the cache's beginning."""
    span = Span(0, start, num_tokens, np.arange(start + num_tokens), is_contiguous=True)
    step = StepInput([0] * num_tokens, np.arange(span.start, span.end), [span], [num_tokens - 1], KvOps())
    seconds = []
    for _ in range(1 + PROFILE_ROUNDS):
        begin = perf_counter()
        runner.execute(step).cpu()
        seconds.append(perf_counter() - begin)
    return min(seconds)


def forward(model: Any, ids: torch.Tensor, positions: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """One pass over a row of tokens.

    Args:
        ids, positions: (T,) int64.
        keep: (N,) int64, the places in the row whose logits are wanted.

    Returns:
        (N, vocabulary).
    """
    # The mask hides nothing and attention ignores it; without it some families look for padding and warn.
    mask = torch.ones_like(ids)[None]
    output = model(
        input_ids=ids[None],
        position_ids=positions[None],
        attention_mask=mask,
        use_cache=False,
        logits_to_keep=keep,
    )
    logits: torch.Tensor = output.logits[0]
    return logits


def _tokens(chunk: Chunk) -> list[int]:
    return chunk.sequence.token_ids[chunk.start : chunk.start + chunk.num_tokens]


_NO_POSITIONS: np.ndarray = np.empty(0, dtype=np.int64)


def _spans(chunks: Sequence[Chunk]) -> list[Span]:
    spans, row = [], 0
    for chunk in chunks:
        slots = chunk.sequence.slots[: chunk.start + chunk.num_tokens]
        spans.append(Span(row, chunk.start, chunk.num_tokens, slots, chunk.sequence.is_contiguous))
        row += chunk.num_tokens
    return spans
