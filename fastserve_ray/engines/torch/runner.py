"""The runner: chunks of sequences in, logits of their last tokens out.

Owns the model and the KV cache's tensors. The model's attention is replaced, so that a step is one forward pass over
one row of tokens, whatever mix of decoding and prompts it holds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fastserve_ray.engines.torch.attention import ATTENTION_NAME, ProbeStep, running, step_attention
from fastserve_ray.engines.torch.kv_cache import KvCache, LayerShape
from fastserve_ray.engines.torch.ragged import RaggedStep, Span
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.scheduler import Chunk

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


class Runner:
    """Runs steps. Not thread-safe.

    Args:
        model: as `adopt` left it.
        num_slots: tokens in the KV cache.
    """

    def __init__(self, model: Any, layers: Sequence[LayerShape], num_slots: int) -> None:
        self._model = model
        self._device = model.device
        self._cache = KvCache(layers, num_slots, model.device)

    @torch.inference_mode()
    def run(self, chunks: Sequence[Chunk]) -> tuple[list[Chunk], torch.Tensor]:
        """Read the chunks' tokens into the cache.

        Returns:
            the chunks that end their sequences so far, and for each the logits of the next token (N, vocabulary).
        """
        ordered = sorted(chunks, key=lambda chunk: (chunk.num_tokens > 1, chunk.start))
        spans = _spans(ordered)
        ids = [token for chunk in ordered for token in _tokens(chunk)]
        positions = np.concatenate([np.arange(span.start, span.end) for span in spans])
        ending = [at for at, chunk in enumerate(ordered) if chunk.ends_sequence]
        last_rows = [spans[at].row + spans[at].num_tokens - 1 for at in ending]
        with running(RaggedStep(self._cache, spans)):
            logits = forward(
                self._model,
                torch.tensor(ids, device=self._device),
                torch.from_numpy(positions).to(self._device),
                torch.tensor(last_rows, dtype=torch.int64, device=self._device),
            )
        return [ordered[at] for at in ending], logits


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


def _spans(chunks: Sequence[Chunk]) -> list[Span]:
    spans, row = [], 0
    for chunk in chunks:
        assert chunk.sequence.slots is not None, "a scheduled sequence has its blocks"
        spans.append(Span(row, chunk.start, chunk.num_tokens, chunk.sequence.slots, chunk.sequence.is_contiguous))
        row += chunk.num_tokens
    return spans
