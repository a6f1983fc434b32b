"""The scheduler: spends a step's tokens and the cache's blocks in the order that the policy decides.

A request is admitted when the blocks for its worst case (prompt and ``max_tokens``) are free, and keeps them until it
ends. That holds more than it uses, but a running request can never be short of space, so there is no preemption and
no dead-lock: whatever runs will end and make room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.kv_cache import BlockPool
    from fastserve_ray.engines.torch.policies.protocol import Policy
    from fastserve_ray.engines.torch.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """The tokens of one sequence that a step reads: positions [start, start + num_tokens)."""

    sequence: Sequence
    start: int
    num_tokens: int

    @property
    def ends_sequence(self) -> bool:
        """Whether the last token so far is read, so that the next one can be sampled."""
        return self.start + self.num_tokens == len(self.sequence.token_ids)


class Scheduler:
    """Owns the queues and the blocks.

    Args:
        max_num_seqs: sequences that run at most.
        max_num_batched_tokens: tokens of a step at most; longer prompts are read in chunks beside decoding ones.
    """

    def __init__(self, policy: Policy, pool: BlockPool, *, max_num_seqs: int, max_num_batched_tokens: int) -> None:
        self._policy = policy
        self.pool = pool
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self.running: dict[str, Sequence] = {}
        self.waiting: dict[str, Sequence] = {}

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.running or request_id in self.waiting

    def has_work(self) -> bool:
        return bool(self.running or self.waiting)

    def add(self, sequence: Sequence) -> None:
        """Queue ``sequence``; its worst case must fit an empty pool, else it would wait for ever."""
        assert self.pool.blocks_for(sequence.max_len) <= self.pool.num_blocks
        self.waiting[sequence.request_id] = sequence

    def schedule(self) -> list[Chunk]:
        """The chunks of the next step; admits what waits as far as budgets allow. Empty only when there is no work."""
        chunks: list[Chunk] = []
        admitted: list[Sequence] = []
        budget = self._max_num_batched_tokens
        for sequence in self._policy.decide(self.running.values(), self.waiting.values()).order:
            if budget == 0:
                break
            if not sequence.is_running:
                if len(self.running) + len(admitted) >= self._max_num_seqs or not self._reserve(sequence):
                    break
                admitted.append(sequence)
            num_tokens = min(sequence.num_uncomputed_tokens, budget)
            chunks.append(Chunk(sequence, sequence.num_computed_tokens, num_tokens))
            budget -= num_tokens
        for sequence in admitted:
            del self.waiting[sequence.request_id]
            self.running[sequence.request_id] = sequence
        return chunks

    def remove(self, request_id: str) -> None:
        """Drop a finished or cancelled sequence and free its blocks at once; an unknown id is ignored."""
        if self.waiting.pop(request_id, None) is not None:
            return
        sequence = self.running.pop(request_id, None)
        if sequence is not None and sequence.blocks is not None:
            self.pool.free(sequence.blocks)
            sequence.blocks = None

    def _reserve(self, sequence: Sequence) -> bool:
        blocks = self.pool.allocate(self.pool.blocks_for(sequence.max_len))
        if blocks is None:
            return False
        sequence.blocks = blocks
        sequence.slots = self.pool.slots(blocks)
        sequence.is_contiguous = blocks[-1] - blocks[0] == len(blocks) - 1
        return True
