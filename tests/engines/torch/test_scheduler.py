"""Budgets, order, preemption, swaps and prefixes, without a model.

`Machine` stands for the runner: it keeps in every slot which tokens were read into it, so that a sequence whose keys
and values are lost, mixed up or overwritten is found at once.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, cast

import pytest

from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.kv_cache import KvOps
from fastserve_ray.engines.torch.scheduler import Scheduler, StepPlan
from fastserve_ray.engines.torch.sequence import Place, Sequence

if TYPE_CHECKING:
    from collections.abc import Collection

BLOCK = 4


class InOrder:
    """A policy that serves by ``rank``, else by arrival."""

    def __init__(self) -> None:
        self.rank: dict[str, float] = {}
        self.charged: dict[str, int] = {}

    def add(self, job: Any, now: float) -> None:
        self.charged[job.request_id] = 0

    def charge(self, job: Any, num_tokens: int, now: float) -> None:
        self.charged[job.request_id] += num_tokens

    def remove(self, job: Any) -> None:
        del self.charged[job.request_id]

    def order(self, jobs: Collection[Any], now: float) -> list[Any]:
        return sorted(jobs, key=lambda job: (self.rank.get(job.request_id, 0.0), job.arrival))

    def next_times(self, ordered: Any, now: float) -> list[float]:
        return [float(at) for at, _ in enumerate(ordered)]


class Machine:
    """A scheduler and what a runner would do, with (tokens up to here) in place of keys and values."""

    def __init__(
        self,
        *,
        blocks: int = 100,
        host: int = 0,
        max_num_seqs: int = 4,
        max_num_batched_tokens: int = 10,
        shares_prefixes: bool = False,
    ) -> None:
        self.policy = InOrder()
        self.now = 0.0
        self.scheduler = Scheduler(
            cast("Any", self.policy),
            BlockPool(blocks, BLOCK),
            BlockPool(host, BLOCK) if host else None,
            max_num_seqs=max_num_seqs,
            max_num_batched_tokens=max_num_batched_tokens,
            shares_prefixes=shares_prefixes,
            clock=lambda: self.now,
        )
        self.slots: dict[int, tuple[int, ...]] = {}
        self.host_slots: dict[int, tuple[int, ...]] = {}
        self._swaps = KvOps()
        self._arrivals = 0

    def add(self, name: str, prompt: int | tuple[int, ...], max_tokens: int = 4, rank: float = 0.0) -> Sequence:
        sequence = self.new(name, prompt, max_tokens)
        self.policy.rank[name] = rank
        self.scheduler.add(sequence)
        return sequence

    def new(self, name: str, prompt: int | tuple[int, ...], max_tokens: int = 4, index: int = 0) -> Sequence:
        tokens = (5,) * prompt if isinstance(prompt, int) else prompt
        request = GenerateRequest(name, tokens, SamplingParams(max_tokens=max_tokens))
        self._arrivals += 1
        return Sequence(
            request,
            arrival=self._arrivals,
            arrived_at=self.now,
            max_tokens=max_tokens,
            text=cast("Any", None),
            sampler=cast("Any", None),
            index=index,
        )

    def step(self, token: int = 7) -> list[tuple[str, int, int]]:
        """One step, in which every sequence whose tokens are read gets ``token``; (request, start, tokens) of each."""
        self.now += 1.0
        plan = self.scheduler.schedule()
        self.execute(plan)
        seen = [(chunk.sequence.request_id, chunk.start, chunk.num_tokens) for chunk in plan.chunks]
        ending = [chunk.sequence for chunk in plan.chunks if chunk.ends_sequence]
        self.scheduler.account(plan)
        for sequence in ending:
            sequence.token_ids.append(token)
            if sequence.num_completion_tokens == sequence.max_tokens:
                self.scheduler.remove(sequence.request_id)
        return seen

    def place(self, name: str) -> Place:
        return self.scheduler.sequences[name].place

    def names(self) -> list[str]:
        return [name for name, _, _ in self.step()]

    def execute(self, plan: StepPlan) -> None:
        self._finish_swaps()
        for source, target in plan.kv.copies:
            self._copy(self.slots, source, self.slots, target)
        self._swaps = plan.kv
        for chunk in plan.chunks:
            tokens, slots = tuple(chunk.sequence.token_ids), chunk.sequence.slots.tolist()
            for at in range(chunk.start, chunk.start + chunk.num_tokens):
                self.slots[slots[at]] = tokens[: at + 1]
            for at in range(chunk.start + chunk.num_tokens):
                assert self.slots[slots[at]] == tokens[: at + 1], f"{chunk.sequence.request_id} lost position {at}"
            assert chunk.sequence.is_contiguous == all(slot == slots[0] + at for at, slot in enumerate(slots)), (
                "contiguous means side by side"
            )

    def _finish_swaps(self) -> None:
        """As late as a swap may be."""
        swaps, self._swaps = self._swaps, KvOps()
        for source, target in swaps.swap_out:
            self._copy(self.slots, source, self.host_slots, target)
        for source, target in swaps.swap_in:
            self._copy(self.host_slots, source, self.slots, target)

    @staticmethod
    def _copy(source: dict[int, tuple[int, ...]], block: int, target: dict[int, tuple[int, ...]], other: int) -> None:
        for at in range(BLOCK):
            content = source.get(block * BLOCK + at)
            if content is not None:
                target[other * BLOCK + at] = content


def test_prompts_are_read_in_chunks_beside_decoding() -> None:
    machine = Machine()
    machine.add("a", 3)
    machine.add("b", 16)
    assert machine.step() == [("a", 0, 3), ("b", 0, 7)]
    assert machine.step() == [("a", 3, 1), ("b", 7, 9)]
    assert machine.step() == [("a", 4, 1), ("b", 16, 1)]


def test_a_long_prompt_in_front_leaves_a_token_for_those_that_decode() -> None:
    machine = Machine()
    machine.add("a", 3, rank=1)
    machine.step()
    machine.add("long", 30, rank=0)
    assert machine.step() == [("long", 0, 9), ("a", 3, 1)]


def test_at_most_so_many_sequences() -> None:
    machine = Machine(max_num_seqs=2)
    for name in "abc":
        machine.add(name, 2)
    assert machine.names() == ["a", "b"]
    machine.scheduler.remove("a")
    assert machine.names() == ["b", "c"]


def test_the_policy_is_told_what_each_got() -> None:
    machine = Machine()
    machine.add("a", 3)
    machine.add("b", 16)
    machine.step()
    machine.step()
    assert machine.policy.charged == {"a": 4, "b": 16}


def test_remove_frees_and_forgets() -> None:
    machine = Machine()
    machine.add("a", 3)
    machine.add("b", 3)
    machine.scheduler.remove("b")
    assert "b" not in machine.scheduler
    machine.step()
    assert machine.scheduler.pool.num_used == 1
    machine.scheduler.remove("a")
    machine.scheduler.remove("unknown")
    assert machine.scheduler.pool.num_used == 0
    assert not machine.scheduler.has_work()
    assert machine.step() == []


def test_blocks_are_taken_as_a_sequence_grows() -> None:
    machine = Machine()
    machine.add("a", 3, 30)
    machine.step()
    machine.step()
    assert machine.scheduler.pool.num_used == 1
    machine.step()
    assert machine.scheduler.pool.num_used == 2


def test_those_behind_lose_their_blocks_and_read_again() -> None:
    machine = Machine(blocks=4)
    machine.add("old", 7, 9)
    machine.add("young", 6, 4)
    assert machine.step() == [("old", 0, 7), ("young", 0, 3)]
    seen = [machine.step() for _ in range(5)]
    assert ("young", 3, 3) in seen[0]
    assert machine.scheduler.counts.dropped_tokens > 0
    while machine.scheduler.has_work():
        machine.step()
    assert machine.scheduler.counts.preemptions == 1


def test_a_sequence_that_does_not_fit_holds_back_those_behind_it() -> None:
    machine = Machine(blocks=5)
    machine.add("a", 8, 4)
    machine.step()
    machine.add("large", 9, 4)
    machine.add("small", 1, 1)
    assert machine.names() == ["a"]
    machine.scheduler.remove("a")
    assert machine.names() == ["large", "small"]


def test_whoever_is_in_front_takes_from_those_behind() -> None:
    machine = Machine(blocks=4, max_num_batched_tokens=20)
    machine.add("a", 8, 8)
    machine.step()
    machine.add("urgent", 12, 4, rank=-1)
    assert machine.step() == [("urgent", 0, 12)]
    assert machine.place("a") is Place.NOWHERE
    assert machine.scheduler.sequences["a"].num_preemptions == 1


def test_a_sequence_without_a_place_waits_and_keeps_its_blocks() -> None:
    machine = Machine(max_num_seqs=1)
    machine.add("a", 3, 8)
    machine.step()
    machine.add("urgent", 2, 2, rank=-1)
    assert machine.step() == [("urgent", 0, 2)]
    assert machine.place("a") is Place.DEVICE
    assert machine.step() == [("urgent", 2, 1)]
    assert machine.step() == [("a", 3, 1)]
    assert machine.scheduler.counts.preemptions == 1
    assert machine.scheduler.counts.dropped_tokens == 0


def test_swapped_out_beside_a_step_and_back_beside_another() -> None:
    machine = Machine(blocks=4, host=4, max_num_batched_tokens=20)
    machine.add("a", 8, 8)
    machine.step()
    machine.add("urgent", 12, 3, rank=-1)
    assert machine.step() == []
    assert machine.place("a") is Place.LEAVING
    assert machine.step() == [("urgent", 0, 12)]
    assert machine.place("a") is Place.HOST
    for _ in range(2):
        assert machine.step() != []
    assert machine.step() == []
    assert machine.place("a") is Place.ENTERING
    assert machine.step() == [("a", 8, 1)]
    counts = machine.scheduler.counts
    assert (counts.swapped_out_blocks, counts.swapped_in_blocks, counts.dropped_tokens) == (2, 2, 0)
    machine.scheduler.remove("a")
    assert machine.scheduler.host is not None
    assert machine.scheduler.host.num_used == machine.scheduler.pool.num_used == 0


def test_without_room_in_the_host_pool_it_is_dropped() -> None:
    machine = Machine(blocks=4, host=1, max_num_batched_tokens=20)
    machine.add("a", 8, 8)
    machine.step()
    machine.add("urgent", 12, 3, rank=-1)
    assert machine.step() == [("urgent", 0, 12)]
    assert machine.scheduler.counts.dropped_tokens == 8


def test_swapped_ahead_of_need() -> None:
    machine = Machine(blocks=40, host=40, max_num_seqs=1, max_num_batched_tokens=100)
    machine.add("waits", 72, 8)
    machine.step()
    machine.add("urgent", 88, 3, rank=-1)
    machine.step()
    assert machine.scheduler.pool.num_free < 2
    assert machine.place("waits") is Place.LEAVING
    machine.step()
    machine.scheduler.remove("urgent")
    machine.step()
    assert machine.step() == [("waits", 72, 1)]


def test_prompts_that_begin_alike_share_blocks() -> None:
    machine = Machine(shares_prefixes=True, max_num_batched_tokens=100)
    machine.add("a", tuple(range(10)), 8)
    machine.step()
    machine.add("b", (*range(9), 77), 8)
    machine.add("c", (77, *range(1, 10)), 8)
    assert machine.step() == [("a", 10, 1), ("b", 8, 2), ("c", 0, 10)]
    assert machine.scheduler.pool.num_used == 3 + 1 + 3
    assert machine.scheduler.counts.prefix_hit_tokens == 8


def test_a_known_prompt_is_read_from_its_last_token() -> None:
    machine = Machine(shares_prefixes=True)
    machine.add("a", tuple(range(8)), 1)
    machine.step()
    assert not machine.scheduler.has_work()
    machine.add("b", tuple(range(8)), 4)
    assert machine.step() == [("b", 4, 4)]


def test_completions_of_one_prompt_share_blocks_until_they_write() -> None:
    machine = Machine(max_num_batched_tokens=100)
    first = machine.add("a", 6, 8)
    plan = machine.scheduler.schedule()
    machine.execute(plan)
    machine.scheduler.account(plan)
    second = machine.new("a", 6, 8, index=1)
    machine.scheduler.fork(first, second)
    first.token_ids.append(1)
    second.token_ids.append(2)
    assert machine.scheduler.pool.num_used == 2
    assert len(machine.step()) == 2
    assert machine.scheduler.pool.num_used == 3
    assert first.blocks[0] == second.blocks[0]
    assert first.blocks[1] != second.blocks[1]
    while machine.scheduler.has_work():
        machine.step()
    assert machine.scheduler.pool.num_used == 0


@pytest.mark.parametrize("host", [0, 12])
@pytest.mark.parametrize("shares_prefixes", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_any_load_ends_and_nothing_is_lost(seed: int, shares_prefixes: bool, host: int) -> None:
    """Ten times what the pool holds, priorities that change at random, cancellations."""
    draw = random.Random(seed)
    machine = Machine(blocks=16, host=host, max_num_seqs=5, max_num_batched_tokens=24, shares_prefixes=shares_prefixes)
    names = [f"r{number}" for number in range(60)]
    for name in names:
        shared = tuple(range(draw.choice([0, 6, 13])))
        prompt = shared + tuple(draw.randrange(100, 104) for _ in range(draw.randint(1, 24)))
        machine.add(name, prompt, draw.randint(1, 20))
    steps = 0
    while machine.scheduler.has_work():
        for name in draw.sample(names, 3) if steps < 300 else ():
            machine.policy.rank[name] = draw.random()
        if draw.random() < 0.03:
            machine.scheduler.remove(draw.choice(names))
        machine.step(token=draw.randrange(100, 104))
        steps += 1
        assert steps < 5000, "livelock"
    assert machine.scheduler.pool.num_used == 0
    assert machine.scheduler.host is None or machine.scheduler.host.num_used == 0
    counts = machine.scheduler.counts
    assert counts.peak_used_blocks <= 16
    assert counts.preemptions > 20
    assert counts.swapped_in_blocks > 20 if host else counts.dropped_tokens > 20
    assert (counts.prefix_hit_tokens > 20) == shares_prefixes
