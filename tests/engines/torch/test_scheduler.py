"""Budgets, admission and order, without a model."""

from __future__ import annotations

from typing import Any, cast

from fastserve_ray.engines.torch.kv_cache import BlockPool
from fastserve_ray.engines.torch.policies import POLICIES
from fastserve_ray.engines.torch.policies.fcfs import Fcfs
from fastserve_ray.engines.torch.scheduler import Chunk, Scheduler
from fastserve_ray.engines.torch.sequence import Sequence
from tests.engines.tiny import greedy


def build(*, blocks: int = 100, max_num_seqs: int = 4, max_num_batched_tokens: int = 10) -> Scheduler:
    return Scheduler(
        Fcfs(), BlockPool(blocks, 4), max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens
    )


def sequence(name: str, num_prompt_tokens: int, max_tokens: int = 4, arrival: int = 0) -> Sequence:
    request = greedy(name, (5,) * num_prompt_tokens, max_tokens)
    return Sequence(request, arrival=arrival, max_tokens=max_tokens, text=cast("Any", None), generator=None)


def advance(chunks: list[Chunk]) -> list[tuple[str, int, int]]:
    """Do as a step does; return (request, start, tokens) of each chunk."""
    seen = [(chunk.sequence.request_id, chunk.start, chunk.num_tokens) for chunk in chunks]
    ending = [chunk.sequence for chunk in chunks if chunk.ends_sequence]
    for chunk in chunks:
        chunk.sequence.num_computed_tokens += chunk.num_tokens
    for ended in ending:
        ended.token_ids.append(7)
    return seen


def test_prompts_are_read_in_chunks_beside_decoding() -> None:
    scheduler = build()
    scheduler.add(sequence("a", 3))
    scheduler.add(sequence("b", 16))
    assert advance(scheduler.schedule()) == [("a", 0, 3), ("b", 0, 7)]
    assert advance(scheduler.schedule()) == [("a", 3, 1), ("b", 7, 9)]
    assert advance(scheduler.schedule()) == [("a", 4, 1), ("b", 16, 1)]


def test_at_most_so_many_sequences() -> None:
    scheduler = build(max_num_seqs=2)
    for name in "abc":
        scheduler.add(sequence(name, 2))
    assert [name for name, _, _ in advance(scheduler.schedule())] == ["a", "b"]
    scheduler.remove("a")
    assert [name for name, _, _ in advance(scheduler.schedule())] == ["b", "c"]


def test_admission_reserves_the_worst_case_and_keeps_order() -> None:
    scheduler = build(blocks=5)
    scheduler.add(sequence("a", 6, 6))
    scheduler.add(sequence("large", 8, 8))
    scheduler.add(sequence("small", 1, 1))
    assert [name for name, _, _ in advance(scheduler.schedule())] == ["a"]
    assert scheduler.pool.num_used == 3
    assert [name for name, _, _ in advance(scheduler.schedule())] == ["a"]  # small does not overtake large
    scheduler.remove("a")
    assert [name for name, _, _ in advance(scheduler.schedule())] == ["large", "small"]
    assert scheduler.pool.num_used == 5


def test_remove_frees_and_forgets() -> None:
    scheduler = build()
    scheduler.add(sequence("a", 3))
    scheduler.add(sequence("b", 3))
    scheduler.remove("b")
    assert "b" not in scheduler
    scheduler.schedule()
    assert "a" in scheduler.running
    scheduler.remove("a")
    scheduler.remove("unknown")
    assert scheduler.pool.num_used == 0
    assert not scheduler.has_work()
    assert scheduler.schedule() == []


def test_every_policy_resolves() -> None:
    for name in POLICIES:
        assert callable(POLICIES.load(name)().decide)
