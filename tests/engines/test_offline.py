from __future__ import annotations

import pytest

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.errors import EngineError
from tests.engines.tiny import build_engine, greedy


def test_completions_come_in_the_order_of_the_requests() -> None:
    requests = [greedy(name, (at + 5,), at + 1, ignore_eos=True) for at, name in enumerate("cab")]
    completions = generate_all(build_engine(), requests)
    assert [completion.request_id for completion in completions] == ["c", "a", "b"]
    assert [completion.num_completion_tokens for completion in completions] == [1, 2, 3]
    assert all(len(completion.token_ids) == completion.num_completion_tokens for completion in completions)
    assert generate_all(build_engine(), []) == []


def test_a_refused_request_leaves_nothing_behind() -> None:
    engine = build_engine()
    with pytest.raises(EngineError, match="id is in the engine"):
        generate_all(engine, [greedy("a", (5,)), greedy("a", (6,))])
    assert not engine.has_work()
