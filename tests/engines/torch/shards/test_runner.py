"""Rank 0's runner: what it tells the others, and what a failure leaves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from fastserve_ray.engines.torch.kv_cache import KvOps, LayerShape
from fastserve_ray.engines.torch.ragged import Span
from fastserve_ray.engines.torch.runner import StepInput
from fastserve_ray.engines.torch.shards.runner import STOP, LeadingRunner
from fastserve_ray.engines.torch.shards.wire import unpack_step
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.shards.collectives import Collectives

LAYERS = [LayerShape(1, 4, 4, torch.float32)]
STEP = StepInput([7], np.array([0]), [Span(0, 0, 1, np.arange(1), is_contiguous=True)], [0], KvOps())


class FakeModel:
    device = torch.device("cpu")
    error: BaseException | None = None

    def __call__(self, **inputs: Any) -> Any:
        if self.error is not None:
            raise self.error
        return type("Output", (), {"logits": torch.zeros(1, 1, 9)})


class FakeCollectives:
    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.error: EngineError | None = None

    def send(self, message: bytes) -> None:
        if self.error is not None:
            raise self.error
        self.sent.append(message)


class FakePeers:
    def __init__(self) -> None:
        self.calls: list[str] = []

    def explain(self) -> str | None:
        return "shard 1 ended with exit code 3"

    def close(self) -> None:
        self.calls.append("close")

    def kill(self) -> None:
        self.calls.append("kill")


class Rank0:
    """A leading runner and what is around it."""

    def __init__(self) -> None:
        self.model, self.collectives, self.peers = FakeModel(), FakeCollectives(), FakePeers()
        collectives: Collectives = self.collectives  # type: ignore[assignment]
        self.runner = LeadingRunner(self.model, LAYERS, 16, 0, collectives=collectives, peers=self.peers)


def test_steps_are_sent_and_then_the_stop() -> None:
    rank = Rank0()
    assert rank.runner.execute(STEP).shape == (1, 9)
    rank.runner.close()
    rank.runner.close()
    step, stop = rank.collectives.sent
    assert unpack_step(step).ids == [7]
    assert stop == STOP
    assert rank.peers.calls == ["close"]
    with pytest.raises(EngineError, match="the engine is closed"):
        rank.runner.execute(STEP)


def test_a_lost_rank_is_explained_and_ends_all() -> None:
    rank = Rank0()
    rank.collectives.error = EngineError("connection closed")
    for _ in range(2):
        with pytest.raises(EngineError, match="cannot go on: shard 1 ended with exit code 3"):
            rank.runner.execute(STEP)
    assert rank.peers.calls == ["kill"]
    rank.runner.close()
    assert rank.collectives.sent == []


def test_a_step_that_fails_is_the_last_one() -> None:
    """The others may have finished it, so that their caches differ."""
    rank = Rank0()
    rank.model.error = RuntimeError("out of memory")
    with pytest.raises(RuntimeError, match="out of memory"):
        rank.runner.execute(STEP)
    rank.model.error = None
    with pytest.raises(EngineError, match="cannot go on: RuntimeError: out of memory"):
        rank.runner.execute(STEP)
    assert rank.peers.calls == ["kill"]


def test_a_rank_lost_while_idle_is_noticed_at_the_end() -> None:
    rank = Rank0()
    rank.collectives.error = EngineError("connection closed")
    rank.runner.close()
    assert rank.peers.calls == ["kill"]
