"""The door into transformers: an attention implementation that asks the step in progress what to do.

Registered once by name, it runs inside any model that takes its attention from outside. The model computes queries,
keys and values; the step, found through a context variable, does the rest (`ragged.RaggedStep`).
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

from torch.nn.functional import scaled_dot_product_attention as sdpa

from fastserve_ray.engines.torch.kv_cache import LayerShape
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch

ATTENTION_NAME = "fastserve_ragged"
UNSUPPORTED_ARGUMENTS = ("softcap", "s_aux", "position_bias")
"""What some families hand to attention and this one does not apply: capped scores, sinks, learned biases."""


class Step(Protocol):
    """A forward pass in progress, as attention sees it."""

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None,
        **others: Any,
    ) -> torch.Tensor:
        """One layer: query (1, heads, T, d), key and value (1, kv heads, T, d) to (1, T, heads, d)."""
        ...


_step: ContextVar[Step] = ContextVar("fastserve_attention_step")


@contextmanager
def running(step: Step) -> Iterator[None]:
    """Make ``step`` the one that attention belongs to, in this thread."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def current_step() -> Step:
    """The forward pass in progress in this thread.

    Raises:
        EngineError: there is none: somebody calls a model that an engine has taken over.
    """
    step = _step.get(None)
    if step is None:
        raise EngineError(
            "this model belongs to a FastServe engine and cannot be called by itself",
            hint="load a second copy of it",
        )
    return step


def step_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """The function that transformers calls; masks are the step's own, and there is no dropout at inference."""
    step = current_step()
    return step.attend(module, query, key, value, scaling=scaling, sliding_window=sliding_window, **others), None


class ProbeStep:
    """A forward pass that finds out what a model's attention layers store, and refuses what is not supported."""

    def __init__(self) -> None:
        self.layers: list[LayerShape] = []

    def attend(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scaling: float | None,
        sliding_window: int | None,
        **others: Any,
    ) -> torch.Tensor:
        name = type(module).__name__
        unsupported = [argument for argument in UNSUPPORTED_ARGUMENTS if others.get(argument) is not None]
        if unsupported:
            raise EngineError(f"{name} uses {', '.join(unsupported)}, which the torch engine does not support")
        if others.get("is_causal", getattr(module, "is_causal", True)) is False:
            raise EngineError(f"{name} is not causal, so its keys and values cannot be cached")
        self.layers.append(LayerShape(key.shape[1], key.shape[3], value.shape[3], key.dtype, sliding_window))
        output = sdpa(query, key, value, scale=scaling, is_causal=True, enable_gqa=query.shape[1] != key.shape[1])
        return output.transpose(1, 2)
