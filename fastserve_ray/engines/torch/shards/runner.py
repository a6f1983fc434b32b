"""The two sides of a sharded step: rank 0 sends it and runs it, the others run what they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fastserve_ray.engines.torch.runner import Runner, StepInput
from fastserve_ray.engines.torch.shards.wire import pack_step, unpack_step
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from fastserve_ray.engines.torch.kv_cache import LayerShape
    from fastserve_ray.engines.torch.shards.collectives import Collectives

STOP = b""
"""The message that ends the other ranks."""


class Peers(Protocol):
    """Who hosts the other ranks: processes of `processes.ShardProcesses`, actors, or nobody who can tell."""

    def explain(self) -> str | None:
        """Why a rank ended, in a sentence, if that is known; may wait a moment for it."""
        ...

    def close(self) -> None:
        """Wait a moment for the ranks, which were told to stop, and end those that do not."""
        ...

    def kill(self) -> None:
        """End the ranks at once; without effect when they have ended."""
        ...


class LeadingRunner(Runner):
    """Rank 0's runner. A step that fails leaves the ranks out of step, so it is the last one.

    Args:
        model: rank 0's share, as `adopt` left it.
    """

    def __init__(
        self,
        model: Any,
        layers: Sequence[LayerShape],
        num_slots: int,
        num_host_slots: int,
        *,
        collectives: Collectives,
        peers: Peers,
    ) -> None:
        super().__init__(model, layers, num_slots, num_host_slots)
        self._collectives = collectives
        self._peers = peers
        self._failure: str | None = None
        self._is_closed = False

    def execute(self, step: StepInput) -> torch.Tensor:
        """
        Raises:
            EngineError: a shard has died or does not answer, now or in an earlier step.
        """
        if self._failure is not None:
            raise _broken(self._failure)
        try:
            self._collectives.send(pack_step(step))
            return super().execute(step)
        except EngineError as error:
            self._fail(self._peers.explain() or error.what)
            raise _broken(self._failure) from error
        except BaseException as error:
            self._fail(f"{type(error).__name__}: {error}")
            raise

    def close(self) -> None:
        """End the other ranks."""
        if self._is_closed:
            return
        self._is_closed = True
        try:
            if self._failure is None:
                self._collectives.send(STOP)
                self._peers.close()
        except EngineError:
            self._peers.kill()  # somebody is gone already; so shall be the rest
        finally:
            self._failure = self._failure or "the engine is closed"
            super().close()

    def _fail(self, failure: str) -> None:
        self._failure = failure
        self._peers.kill()


def follow(runner: Runner, collectives: Collectives) -> None:
    """Run rank 0's steps until it stops.

    Raises:
        EngineError: rank 0 or another shard is gone.
    """
    try:
        while (message := collectives.receive()) != STOP:
            runner.execute(unpack_step(message))
    finally:
        runner.close()


def _broken(failure: str | None) -> EngineError:
    return EngineError(f"the sharded engine cannot go on: {failure}", hint="open the engine again")
