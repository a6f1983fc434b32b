"""The router that Ray Serve calls in every process with a handle of the deployment: it turns Serve's replicas and
requests into what the policy knows, and its ranking into replicas.

Everything here runs on the one event loop of the handle's router, so nothing locks.
"""

from __future__ import annotations

import importlib
import time
from typing import TYPE_CHECKING, Any

from ray.serve.request_router import RequestRouter

from fastserve_ray.serve.calls import GenerateCall
from fastserve_ray.serve.routing.hint import RoutingHint, call_keys
from fastserve_ray.serve.routing.policy import MAX_SKEW, SLACK_TOKENS, STATS_KEY, PrefixLoad, Report
from fastserve_ray.serve.routing.work import ExpectedWork

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest, ReplicaID, RunningReplica

PROBE_DEADLINE_S = 1.0
"""For a replica to tell how full it is, where Serve does not know. With Serve's own tenth of a second a replica whose
engine keeps its processor busy is passed over, and its cache with it."""
SMALL = ExpectedWork(1.0, 0.0)
"""A call that generates nothing, such as one that counts tokens."""


class PrefixLoadRouter(RequestRouter):
    """`PrefixLoad` for Serve. Where there is one replica, there is nothing to choose and no prompt is hashed."""

    queue_len_response_deadline_s = PROBE_DEADLINE_S
    max_queue_len_response_deadline_s = 2 * PROBE_DEADLINE_S

    def initialize_state(self, max_skew: float = MAX_SKEW, slack_tokens: float = SLACK_TOKENS) -> None:
        """Called by Serve with ``request_router_kwargs``.

        The sender's name must be of this process, as the calls that it sends have it. Serve pickles this module by
        value: a name that is imported above would be that of the process that deployed, in every router alike, and each
        would take what others sent for its own.
        """
        sender = importlib.import_module("fastserve_ray.serve.routing.work").SENDER
        self._policy = PrefixLoad(sender, max_skew=max_skew, slack_tokens=slack_tokens)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """One replica a rank: Serve goes down the ranks while replicas are full, then waits and asks again."""
        if pending_request is None:
            return [candidate_replicas]
        pending_request.routing_context.should_backoff = True
        replicas = {_name(replica.replica_id): replica for replica in candidate_replicas}
        ranking = self._policy.choose(
            id(pending_request),
            pending_request.metadata.internal_request_id,
            self._hint(pending_request),
            list(replicas),
            time.monotonic(),
        )
        return [[replicas[candidate.replica]] for candidate in ranking]

    def on_request_routed(self, pending_request: PendingRequest, replica_id: ReplicaID, result: object) -> None:
        self._policy.started(
            id(pending_request),
            pending_request.metadata.internal_request_id,
            _name(replica_id),
            self._hint(pending_request),
            time.monotonic(),
        )

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        self._policy.ended(internal_request_id, _name(replica_id))

    def on_replica_actor_died(self, replica_id: ReplicaID) -> None:
        super().on_replica_actor_died(replica_id)
        self._policy.remove(_name(replica_id))

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        """Replicas came or went, or told something new of themselves."""
        super().update_replicas(replicas)
        now = time.monotonic()
        self._policy.set_replicas([_name(replica.replica_id) for replica in replicas])
        for replica in replicas:
            stats = (replica.routing_stats or {}).get(STATS_KEY)
            if stats is not None:
                self._policy.report(_name(replica.replica_id), Report(**stats), now)

    def _hint(self, pending_request: PendingRequest) -> RoutingHint:
        """Kept with the request, which may be asked for several times."""
        context: Any = pending_request.routing_context
        hint: RoutingHint | None = getattr(context, "fastserve_hint", None)
        if hint is None or (not hint.keys and len(self.curr_replicas) > 1):
            hint = hint_of(pending_request.args, with_keys=len(self.curr_replicas) > 1)
            context.fastserve_hint = hint
        return hint


def hint_of(arguments: list[Any], *, with_keys: bool) -> RoutingHint:
    """Of the arguments of a call; anything but a `GenerateCall` is small work without a prefix."""
    call = arguments[0] if arguments else None
    work: ExpectedWork = getattr(call, "work", None) or SMALL
    keys = call_keys(call) if with_keys and isinstance(call, GenerateCall) else ()
    return RoutingHint(keys, work.num_prompt_tokens, work.num_completion_tokens)


def _name(replica_id: ReplicaID) -> str:
    return str(replica_id.unique_id)
