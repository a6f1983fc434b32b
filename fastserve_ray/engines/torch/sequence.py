"""The state of one completion inside the engine."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

import numpy as np

from fastserve_ray.engines.torch.block_pool import NO_PARENT, BlockKey, BlockPool, block_key

if TYPE_CHECKING:
    from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
    from fastserve_ray.engines.torch.sampling import Sampler
    from fastserve_ray.engines.torch.text import TextStream


class Place(Enum):
    """Where the keys and values of a sequence are."""

    NOWHERE = "nowhere"
    """Not read yet, or dropped to be read again."""
    DEVICE = "device"
    LEAVING = "leaving"
    """On their way to the host in the step that runs."""
    HOST = "host"
    ENTERING = "entering"
    """On their way back in the step that runs."""


class Sequence:
    """Prompt and generated tokens of one completion, and what it holds; a request with ``n`` has ``n`` of them.

    Also what a policy sees of it: see `policies.protocol.Job`.
    """

    __slots__ = (
        "arrival",
        "arrived_at",
        "began_at",
        "blocks",
        "claim",
        "expected_tokens",
        "has_run_since_entering",
        "host_blocks",
        "index",
        "is_contiguous",
        "keys",
        "max_tokens",
        "num_computed_tokens",
        "num_preemptions",
        "num_prompt_tokens",
        "place",
        "priority",
        "request",
        "request_id",
        "sampler",
        "sampling",
        "share_key",
        "share_weight",
        "siblings",
        "slots",
        "text",
        "token_ids",
    )

    def __init__(
        self,
        request: GenerateRequest,
        *,
        arrival: int,
        arrived_at: float,
        max_tokens: int,
        text: TextStream,
        sampler: Sampler,
        index: int = 0,
    ) -> None:
        self.request = request
        self.index = index
        """Which of the request's completions."""
        self.request_id = request.request_id if index == 0 else f"{request.request_id}\n{index}"
        """Of this completion; no other sequence of the engine has it."""
        self.sampling: SamplingParams = request.sampling
        self.priority = request.priority
        self.share_key = request.share_key
        self.share_weight = request.share_weight
        self.expected_tokens = request.expected_tokens
        self.arrival = arrival
        self.arrived_at = arrived_at
        """Seconds on the engine's clock."""
        self.began_at: float | None = None
        """When its first step was planned."""
        self.max_tokens = max_tokens
        """Completion tokens at most: what was asked, cut to the model's length."""
        self.token_ids: list[int] = list(request.prompt_token_ids)
        self.num_prompt_tokens = len(request.prompt_token_ids)
        self.num_computed_tokens = 0
        """Tokens whose keys and values are kept."""
        self.num_preemptions = 0
        self.text = text
        self.sampler = sampler
        self.siblings: list[Sequence] = []
        """Further completions of the same request, which begin when this one's prompt is read."""
        self.place = Place.NOWHERE
        self.blocks: list[int] = []
        """On the device, in order; also while they leave or enter."""
        self.host_blocks: list[int] = []
        """In the host pool; also while they leave or enter."""
        self.keys: list[BlockKey] = []
        """Of its full blocks so far, as far as they were asked for."""
        self.claim = range(0)
        self.slots: np.ndarray = np.empty(0, dtype=np.int64)
        """(len(blocks) * block_size,) int64: the cache's slot of every position."""
        self.is_contiguous = True
        """Whether the slots count up by one."""
        self.has_run_since_entering = True

    @property
    def is_resident(self) -> bool:
        """Whether its keys and values are on the device, so that it can go on at once."""
        return self.place is Place.DEVICE

    @property
    def is_in_transit(self) -> bool:
        return self.place in {Place.LEAVING, Place.ENTERING}

    @property
    def max_len(self) -> int:
        """Prompt and completion at most, in tokens."""
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

    def keys_up_to(self, num_blocks: int, block_size: int) -> list[BlockKey]:
        """Keys of its first ``num_blocks`` blocks, all of them full."""
        while len(self.keys) < num_blocks:
            begin = len(self.keys) * block_size
            parent = self.keys[-1] if self.keys else NO_PARENT
            self.keys.append(block_key(parent, self.token_ids[begin : begin + block_size]))
        return self.keys[:num_blocks]

    def set_blocks(self, blocks: list[int], pool: BlockPool) -> None:
        """``blocks`` hold its tokens from now on."""
        self.blocks = blocks
        self.slots = pool.slots(blocks)
        self.is_contiguous = not blocks or all(at == blocks[0] + i for i, at in enumerate(blocks))
