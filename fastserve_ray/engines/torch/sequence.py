"""The state of one request inside the engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
    from fastserve_ray.engines.torch.text import TextStream


class Sequence:
    """Prompt and generated tokens of one request, and what it holds.

    Waiting until ``blocks`` are given by the scheduler, then running until it is finished or cancelled.
    """

    __slots__ = (
        "arrival",
        "blocks",
        "generator",
        "is_contiguous",
        "max_tokens",
        "num_computed_tokens",
        "num_prompt_tokens",
        "request_id",
        "sampling",
        "slots",
        "text",
        "token_ids",
    )

    def __init__(
        self,
        request: GenerateRequest,
        *,
        arrival: int,
        max_tokens: int,
        text: TextStream,
        generator: torch.Generator | None,
    ) -> None:
        self.request_id: str = request.request_id
        self.sampling: SamplingParams = request.sampling
        self.arrival = arrival
        self.max_tokens = max_tokens
        """Completion tokens at most: what was asked, cut to the model's length."""
        self.token_ids: list[int] = list(request.prompt_token_ids)
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        self.text = text
        self.generator = generator
        """Of this request alone, so that a seed gives the same draw whatever else runs; None when greedy."""
        self.blocks: list[int] | None = None
        """Blocks of the KV cache; None while waiting."""
        self.slots: np.ndarray | None = None
        """(len(blocks) * block_size,) int64: the cache's slot of every position."""
        self.is_contiguous = False
        """Whether the slots count up by one."""

    @property
    def is_running(self) -> bool:
        return self.blocks is not None

    @property
    def max_len(self) -> int:
        """Prompt and completion at most, in tokens; what is reserved in the KV cache."""
        return self.num_prompt_tokens + self.max_tokens

    @property
    def num_completion_tokens(self) -> int:
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def num_uncomputed_tokens(self) -> int:
        """Tokens that the model has not read; 1 while decoding."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_outstanding_tokens(self) -> int:
        """Prompt tokens not yet read and completion tokens still allowed."""
        unread_prompt = max(0, self.num_prompt_tokens - self.num_computed_tokens)
        return unread_prompt + self.max_tokens - self.num_completion_tokens
