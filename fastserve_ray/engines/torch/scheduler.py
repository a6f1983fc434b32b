"""The scheduler: spends a step's tokens, places and blocks in the order that the policy decides.

A sequence takes blocks as it grows. When those in front need blocks that nobody has, the sequences expected to run
last give theirs up: they move to the host pool while the step runs, or, without room there, are dropped and read
again later. The first in the order can take from all others and one sequence always fits the pool, so every step
makes progress whatever the load.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastserve_ray.engines.torch.kv_cache import KvOps
from fastserve_ray.engines.torch.sequence import Place

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.engines.torch.block_pool import BlockPool
    from fastserve_ray.engines.torch.policies.protocol import Policy
    from fastserve_ray.engines.torch.sequence import Sequence

SPARE_FRACTION = 0.05
"""Of the pool: below so many free blocks sequences that need not run soon are moved to the host ahead of need, and only
above twice as many are they brought back ahead of need. The gap between the two keeps blocks where they are."""


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


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What the next step does; a plan without chunks only moves blocks."""

    chunks: list[Chunk] = field(default_factory=list)
    kv: KvOps = field(default_factory=KvOps)


@dataclass(slots=True)
class SchedulerCounts:
    """Since the start."""

    preemptions: int = 0
    """Times that a sequence had to wait after it had run."""
    swapped_out_blocks: int = 0
    swapped_in_blocks: int = 0
    dropped_tokens: int = 0
    """Keys and values given up, to be read again."""
    prefix_hit_tokens: int = 0
    """Prompt tokens that were not read because the cache had them."""
    prompt_tokens: int = 0
    peak_used_blocks: int = 0


class Scheduler:
    """Owns the sequences and the blocks.

    Args:
        host: blocks of the host pool; None when there is none.
        max_num_seqs: sequences that run in a step at most.
        max_num_batched_tokens: tokens of a step at most; longer prompts are read in chunks beside decoding ones.
        shares_prefixes: whether full blocks are kept and shared by sequences that begin alike.
        clock: seconds, for the policy.
    """

    def __init__(
        self,
        policy: Policy,
        pool: BlockPool,
        host: BlockPool | None = None,
        *,
        max_num_seqs: int,
        max_num_batched_tokens: int,
        shares_prefixes: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._policy = policy
        self.pool = pool
        self.host = host
        self._max_num_seqs = max_num_seqs
        self._max_num_batched_tokens = max_num_batched_tokens
        self._shares_prefixes = shares_prefixes
        self._spare = int(SPARE_FRACTION * pool.num_blocks)
        self.clock = clock
        self.sequences: dict[str, Sequence] = {}
        self.counts = SchedulerCounts()
        self._ran: list[Sequence] = []
        """In the last step."""

    def __contains__(self, request_id: object) -> bool:
        return request_id in self.sequences

    def has_work(self) -> bool:
        return bool(self.sequences)

    def add(self, sequence: Sequence) -> None:
        """Queue ``sequence``; its longest form must fit an empty pool, else it would wait for ever."""
        assert self.pool.blocks_for(sequence.max_len) <= self.pool.num_blocks
        self.sequences[sequence.request_id] = sequence
        self._policy.add(sequence, self.clock())

    def fork(self, sequence: Sequence, child: Sequence) -> None:
        """``child`` goes on from the tokens of ``sequence`` that are read; they share its blocks until one writes."""
        self.add(child)
        child.began_at = sequence.began_at
        num_blocks = self.pool.blocks_for(sequence.num_computed_tokens)
        blocks = sequence.blocks[:num_blocks]
        self.pool.share(blocks)
        child.set_blocks(blocks, self.pool)
        child.num_computed_tokens = sequence.num_computed_tokens
        child.place = Place.DEVICE

    def schedule(self) -> StepPlan:
        """The next step. Without chunks only when there is no work, or all of it waits for blocks on their way."""
        self._settle()
        now = self.clock()
        order = self._policy.order(self.sequences.values(), now)
        plan = StepPlan()
        self._fill(plan, order, now)
        for chunk in plan.chunks:
            if chunk.sequence.began_at is None:
                chunk.sequence.began_at = now
        self._note_preemptions(plan)
        if self.host is not None:
            self._swap_ahead(plan, order, now)
        self.counts.peak_used_blocks = max(self.counts.peak_used_blocks, self.pool.num_used)
        return plan

    def account(self, plan: StepPlan) -> None:
        """The step of ``plan`` is done: its tokens are read, and their full blocks can be shared."""
        now = self.clock()
        for chunk in plan.chunks:
            sequence = chunk.sequence
            sequence.num_computed_tokens += chunk.num_tokens
            sequence.has_run_since_entering = True
            self._policy.charge(sequence, chunk.num_tokens, now)
            if self._shares_prefixes:
                self._publish(sequence, chunk.start)

    def remove(self, request_id: str) -> None:
        """Drop a finished or cancelled sequence and free its blocks at once; an unknown id is ignored."""
        sequence = self.sequences.pop(request_id, None)
        if sequence is None:
            return
        self._policy.remove(sequence)
        self._release(sequence)

    def _settle(self) -> None:
        """Swaps of the last step are done by the time that this step writes to the cache."""
        for sequence in self.sequences.values():
            if sequence.place is Place.LEAVING:
                self._free_blocks(sequence)
                sequence.place = Place.HOST
            elif sequence.place is Place.ENTERING:
                assert self.host is not None
                self.host.free(sequence.host_blocks)
                sequence.host_blocks = []
                sequence.place = Place.DEVICE

    def _fill(self, plan: StepPlan, order: list[Sequence], now: float) -> None:
        """Give tokens, places and blocks to the sequences of ``order``, the first ones first."""
        budget = self._max_num_batched_tokens
        num_decoding = sum(
            sequence.is_resident and sequence.num_uncomputed_tokens == 1 for sequence in order[: self._max_num_seqs]
        )
        is_short = False
        for rank, sequence in enumerate(order):
            if len(plan.chunks) == self._max_num_seqs or budget == 0:
                break
            if sequence.is_in_transit:
                continue
            if sequence.place is Place.HOST:
                is_short = is_short or not self._swap_in(plan, sequence, order, rank, now)
                continue
            is_decoding = sequence.is_resident and sequence.num_uncomputed_tokens == 1
            if is_short and not is_decoding:
                continue
            begins = sequence.place is Place.NOWHERE
            if begins:
                self._match_prefix(sequence)
            # A long prompt in front leaves a token for each sequence behind it that only needs one.
            num_decoding -= is_decoding
            num_tokens = min(sequence.num_uncomputed_tokens, max(1, budget - num_decoding))
            if not self._grow(plan, sequence, num_tokens, [] if is_short else order[rank + 1 :], now):
                is_short = True
                if begins:
                    self._abandon_match(sequence)
                continue
            if begins:
                self.counts.prompt_tokens += len(sequence.token_ids)
                self.counts.prefix_hit_tokens += sequence.num_computed_tokens
            plan.chunks.append(Chunk(sequence, sequence.num_computed_tokens, num_tokens))
            budget -= num_tokens

    def _grow(self, plan: StepPlan, sequence: Sequence, num_tokens: int, behind: list[Sequence], now: float) -> bool:
        """Make room for the next ``num_tokens`` of ``sequence``, at the cost of those behind it if need be."""
        last_written = sequence.num_computed_tokens // self.pool.block_size
        is_copied = last_written < len(sequence.blocks) and self.pool.is_shared(sequence.blocks[last_written])
        needed = self.pool.blocks_for(sequence.num_computed_tokens + num_tokens) - len(sequence.blocks)
        total = max(0, needed) + is_copied
        if total and not self._make_room(plan, total + self._reserve(plan, sequence), behind, now):
            return False
        if is_copied:
            self._copy_on_write(plan, sequence, last_written)
        if needed > 0:
            self._extend(sequence, needed)
        return True

    def _reserve(self, plan: StepPlan, sequence: Sequence) -> int:
        """Blocks to leave for those in front when a sequence is let in: they will each want one more soon, and would
        take it back at once."""
        return 0 if sequence.place is Place.DEVICE else len(plan.chunks)

    def _extend(self, sequence: Sequence, num_blocks: int) -> None:
        if sequence.place is Place.DEVICE:
            new = self.pool.allocate(num_blocks, after=sequence.blocks[-1])
        else:
            rest = self.pool.blocks_for(sequence.max_len) - len(sequence.blocks) - num_blocks
            new = self.pool.allocate(num_blocks, claim=rest)
        assert new is not None, "room was made"
        if sequence.place is not Place.DEVICE:
            sequence.claim = self.pool.claimed_after(new[-1])
        sequence.set_blocks(sequence.blocks + new, self.pool)
        sequence.place = Place.DEVICE

    def _copy_on_write(self, plan: StepPlan, sequence: Sequence, at: int) -> None:
        """Another sequence shares the block that is written next: this one gets a copy of its own."""
        new = self.pool.allocate(1)
        assert new is not None, "room was made"
        shared = sequence.blocks[at]
        plan.kv.copies.append((shared, new[0]))
        self.pool.free([shared])
        sequence.set_blocks([*sequence.blocks[:at], new[0], *sequence.blocks[at + 1 :]], self.pool)

    def _make_room(self, plan: StepPlan, num_blocks: int, behind: list[Sequence], now: float) -> bool:
        """Take blocks from the sequences behind, those expected to run last first, until ``num_blocks`` are free.

        Blocks of a sequence that moves to the host are free only in the next step, so this may fail and still have
        prepared success.
        """
        if num_blocks <= self.pool.num_free:
            return True
        taken = {id(chunk.sequence) for chunk in plan.chunks}
        victims = [sequence for sequence in behind if sequence.is_resident and id(sequence) not in taken]
        leaving = sum(len(s.blocks) for s in self.sequences.values() if s.place is Place.LEAVING)
        for victim in self._last_first(victims, now):
            if self.pool.num_free + leaving >= num_blocks:
                break
            if self._swap_out(plan, victim):
                leaving += len(victim.blocks)
            else:
                self._drop(victim)
        return self.pool.num_free >= num_blocks

    def _last_first(self, sequences: list[Sequence], now: float) -> list[Sequence]:
        """By the time when they are expected to run; those that came in and have not run yet stay if others can go."""
        times = self._policy.next_times(sequences, now)
        ranked = sorted(
            enumerate(sequences),
            key=lambda item: (item[1].has_run_since_entering, times[item[0]], item[0]),
            reverse=True,
        )
        return [sequence for _, sequence in ranked]

    def _swap_out(self, plan: StepPlan, sequence: Sequence) -> bool:
        """Move a sequence to the host beside the next step, if there is room."""
        if self.host is None:
            return False
        num_blocks = self.pool.blocks_for(sequence.num_computed_tokens)
        places = self.host.allocate(num_blocks)
        if places is None:
            return False
        sequence.host_blocks = places
        plan.kv.swap_out.extend(zip(sequence.blocks[:num_blocks], places, strict=True))
        sequence.place = Place.LEAVING
        self.counts.swapped_out_blocks += num_blocks
        return True

    def _swap_in(self, plan: StepPlan, sequence: Sequence, order: list[Sequence], rank: int, now: float) -> bool:
        """Bring a sequence back beside the next step; it runs in the one after."""
        assert self.host is not None
        num_blocks = len(sequence.host_blocks)
        # one more than it has, so that it can go on when it is back
        wanted = min(num_blocks + 1 + self._reserve(plan, sequence), self.pool.num_blocks)
        if not self._make_room(plan, wanted, order[rank + 1 :], now):
            return False
        self._enter(plan, sequence)
        return True

    def _enter(self, plan: StepPlan, sequence: Sequence) -> None:
        num_blocks = len(sequence.host_blocks)
        claim = self.pool.blocks_for(sequence.max_len) - num_blocks
        blocks = self.pool.allocate(num_blocks, claim=claim)
        assert blocks is not None, "room was made"
        sequence.claim = self.pool.claimed_after(blocks[-1])
        sequence.set_blocks(blocks, self.pool)
        plan.kv.swap_in.extend(zip(sequence.host_blocks, blocks, strict=True))
        sequence.place = Place.ENTERING
        sequence.has_run_since_entering = False
        self.counts.swapped_in_blocks += num_blocks

    def _swap_ahead(self, plan: StepPlan, order: list[Sequence], now: float) -> None:
        """Proactive swapping (FastServe, section 4.2): one sequence a step at most, so that a step is not held up."""
        assert self.host is not None
        taken = {id(chunk.sequence) for chunk in plan.chunks}
        if plan.kv.swap_out or plan.kv.swap_in:
            return
        if self.pool.num_free < self._spare:
            idle = [sequence for sequence in order if sequence.is_resident and id(sequence) not in taken]
            idle = [sequence for sequence in idle if sequence.has_run_since_entering]
            for victim in self._last_first(idle, now)[:1]:
                self._swap_out(plan, victim)
            return
        away = [sequence for sequence in order if sequence.place is Place.HOST]
        if away:
            times = self._policy.next_times(away, now)
            first = min(range(len(away)), key=lambda at: (times[at], at))
            if self.pool.num_free - len(away[first].host_blocks) > 2 * self._spare:
                self._enter(plan, away[first])

    def _drop(self, sequence: Sequence) -> None:
        """Give up keys and values; what is published may still be there when they are read again."""
        self.counts.dropped_tokens += sequence.num_computed_tokens
        self._free_blocks(sequence)
        sequence.num_computed_tokens = 0
        sequence.place = Place.NOWHERE

    def _match_prefix(self, sequence: Sequence) -> None:
        """Begin with the blocks that the cache has. At least one token is left to read: its logits are needed."""
        if not self._shares_prefixes:
            return
        num_blocks = (len(sequence.token_ids) - 1) // self.pool.block_size
        found = self.pool.match(sequence.keys_up_to(num_blocks, self.pool.block_size))
        sequence.set_blocks(found, self.pool)
        sequence.num_computed_tokens = len(found) * self.pool.block_size

    def _abandon_match(self, sequence: Sequence) -> None:
        """There was no room for the rest: what was found stays in the cache, unused."""
        self._free_blocks(sequence)
        sequence.num_computed_tokens = 0

    def _publish(self, sequence: Sequence, start: int) -> None:
        size = self.pool.block_size
        num_full = sequence.num_computed_tokens // size
        keys = sequence.keys_up_to(num_full, size)
        for at in range(start // size, num_full):
            self.pool.publish(sequence.blocks[at], keys[at])

    def _note_preemptions(self, plan: StepPlan) -> None:
        """Count who ran, has more to do, and does not run now."""
        runs = {id(chunk.sequence) for chunk in plan.chunks}
        for sequence in self._ran:
            if id(sequence) not in runs and self.sequences.get(sequence.request_id) is sequence:
                sequence.num_preemptions += 1
                self.counts.preemptions += 1
        self._ran = [chunk.sequence for chunk in plan.chunks]

    def _release(self, sequence: Sequence) -> None:
        self._free_blocks(sequence)
        if sequence.host_blocks:
            assert self.host is not None
            self.host.free(sequence.host_blocks)
            sequence.host_blocks = []
        sequence.place = Place.NOWHERE

    def _free_blocks(self, sequence: Sequence) -> None:
        self.pool.free(sequence.blocks)
        self.pool.unclaim(sequence.claim)
        sequence.set_blocks([], self.pool)
        sequence.claim = range(0)
