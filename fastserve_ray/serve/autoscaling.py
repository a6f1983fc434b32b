"""How many replicas: by the tokens that are to be done, not by the requests. Ray Serve's controller calls it.

Requests differ by a factor of a thousand, so a target in requests is too many replicas for short ones or too few for
long ones. Delays, factors and bounds are Serve's own and are applied to what this returns; so is the start from zero,
which any request brings about at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.config import AutoscalingContext

METRIC = "outstanding_tokens"
"""What replicas tell Serve: tokens of the calls that they have and not finished."""


class OutstandingTokens:
    """A Serve autoscaling policy.

    Args:
        target_tokens: outstanding tokens that one replica should have.
    """

    def __init__(self, target_tokens: float) -> None:
        self._target_tokens = target_tokens

    def __call__(self, context: AutoscalingContext) -> tuple[float, dict[str, Any]]:
        if context.current_num_replicas == 0:
            return context.target_num_replicas, {}
        per_replica = (context.aggregated_metrics or {}).get(METRIC, {})
        tokens = outstanding_tokens(
            sum(per_replica.values()),
            num_running=context.total_running_requests,
            num_queued=context.total_queued_requests,
            target_tokens=self._target_tokens,
        )
        return tokens / self._target_tokens, {}


def outstanding_tokens(tokens: float, *, num_running: float, num_queued: float, target_tokens: float) -> float:
    """With those of the requests that wait in routers, which replicas do not know yet.

    They count as the running ones do on average. Where those tell nothing yet, the queue counts as one replica's
    target: better one replica too many than a queue that nobody sees.

    Args:
        tokens: that replicas tell.
        num_running, num_queued: requests, averaged as the tokens are.
    """
    if num_queued <= 0:
        return tokens
    if tokens <= 0 or num_running <= 0:
        return tokens + target_tokens
    return tokens * (1 + num_queued / num_running)
