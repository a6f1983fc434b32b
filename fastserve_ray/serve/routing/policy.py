"""Prefix and load in one number: a request goes where the tokens before it and its own uncached tokens are fewest.

Both are tokens that an engine must compute before the request's first one. Uncached tokens weigh more: they delay all
that comes after this request, too. A bound on skew keeps a popular prefix from drawing everything to one replica: one
that has, with the request, more than ``max_skew`` times the mean of outstanding tokens is a last resort. The policy
touches no actor and no clock; whoever calls it says what time it is.

Two things are known of a replica's load. What this router sent there and has not seen end is exact. What others sent
is what the replica reported last, and counts for some time only: a stale report is worse than none.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING

from fastserve_ray.serve.routing.hint import BLOCK_TOKENS, RoutingHint
from fastserve_ray.serve.routing.prefix_index import PrefixIndex

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STATS_KEY = "fastserve"
"""Where a `Report` is in the statistics that replicas give Serve for routers."""
MAX_SKEW = 1.5
PREFIX_WEIGHT = 4.0
"""Of an uncached token against an outstanding one. On the shared-prefix trace of benchmarks/routing.py 4 halves the
mean time to first token of 1."""
SLACK_TOKENS = 1024.0
"""A replica with no more than this to do is not loaded, whatever the others have: two steps of an engine's budget."""
REPORT_LIFETIME_S = 5.0
RESERVATION_LIFETIME_S = 60.0
"""After that a request that was given a replica and was never sent is forgotten; its caller went away in between."""


@dataclass(frozen=True)
class Report:
    """What a replica says of itself."""

    outstanding: Mapping[str, float] = field(default_factory=dict)
    """By sender, tokens of the requests that it has not finished."""
    cache_tokens: int | None = None
    """What its KV cache holds."""
    at: float = 0.0
    """By the replica's clock; tells a new report from the same one seen again."""


@dataclass(frozen=True)
class Assignment:
    """A request's place."""

    request_id: str
    replica: str
    num_tokens: float
    """What it adds to the replica's load."""
    at: float
    """Seconds, of the caller's clock."""


@dataclass(frozen=True)
class Candidate:
    """One replica in the eyes of one request; tokens."""

    replica: str
    load: float
    work: float
    """What the request would add: its uncached prompt and its completion."""
    num_cached_blocks: int
    is_within_bound: bool


class PrefixLoad:
    """The policy of one router.

    Args:
        sender: this router's name in the reports of replicas.
        max_skew: load of a replica over the mean, at most, where another can be had.
        prefix_weight: of an uncached token against an outstanding one.
        slack_tokens: load up to which the bound does not hold.
        report_lifetime_s: how long a report counts.
    """

    def __init__(
        self,
        sender: str,
        *,
        max_skew: float = MAX_SKEW,
        prefix_weight: float = PREFIX_WEIGHT,
        slack_tokens: float = SLACK_TOKENS,
        report_lifetime_s: float = REPORT_LIFETIME_S,
    ) -> None:
        self._sender = sender
        self._max_skew, self._slack_tokens, self._prefix_weight = max_skew, slack_tokens, prefix_weight
        self._report_lifetime_s = report_lifetime_s
        self._index = PrefixIndex()
        self._own: defaultdict[str, float] = defaultdict(float)
        self._served: defaultdict[str, float] = defaultdict(float)
        """Work ever sent; the one with least gets what nothing else decides."""
        self._reports: dict[str, tuple[float, Report]] = {}
        self._reserved: dict[int, Assignment] = {}
        """By ticket: chosen, not sent yet."""
        self._early: set[int] = set()
        """Tickets of calls that have ended before it was told that they began: a quick answer comes with the word that
        the call was accepted, and may be heard first."""
        self._running: defaultdict[tuple[str, str], list[Assignment]] = defaultdict(list)
        """By request id and replica; one request may make several calls."""

    def choose(
        self, ticket: int, request_id: str, hint: RoutingHint, replicas: Sequence[str], now: float
    ) -> list[Candidate]:
        """All of ``replicas``, best first. The best one is reserved, so that requests that are chosen for at the same
        time see each other; choosing again for the same ``ticket`` replaces that."""
        self._release(ticket)
        self._early.discard(ticket)
        self._expire(now)
        ranking = self.rank(hint, replicas, now)
        best = ranking[0]
        self._reserve(ticket, Assignment(request_id, best.replica, best.work, now))
        return ranking

    def rank(self, hint: RoutingHint, replicas: Sequence[str], now: float) -> list[Candidate]:
        """All of ``replicas``, best first; changes nothing."""
        cached = self._index.match(hint.keys)
        loads = {replica: self.load(replica, now) for replica in replicas}
        works = {
            replica: hint.num_missing_tokens(cached.get(replica, 0)) + hint.num_completion_tokens
            for replica in replicas
        }
        bound = max(self._slack_tokens, self._max_skew * (sum(loads.values()) + hint.num_tokens) / len(replicas))
        candidates = [
            Candidate(
                replica,
                loads[replica],
                works[replica],
                cached.get(replica, 0),
                loads[replica] + works[replica] <= bound,
            )
            for replica in replicas
        ]
        return sorted(candidates, key=lambda candidate: self._order(candidate, hint))

    def started(self, ticket: int, request_id: str, replica: str, hint: RoutingHint, now: float) -> None:
        """The request is in ``replica``, which is not always the one that was reserved."""
        self._release(ticket)
        num_cached = self._index.match(hint.keys).get(replica, 0)
        work = hint.num_missing_tokens(num_cached) + hint.num_completion_tokens
        self._served[replica] += work
        self._index.add(replica, hint.keys)
        if ticket in self._early:
            self._early.remove(ticket)
            return
        self._running[request_id, replica].append(Assignment(request_id, replica, work, now))
        self._own[replica] += work

    def ended(self, request_id: str, replica: str) -> None:
        """A call of this request has ended in ``replica``, or was never accepted there."""
        running = self._running.get((request_id, replica))
        if not running:
            own = [ticket for ticket, kept in self._reserved.items() if kept.request_id == request_id]
            for ticket in sorted(own, key=lambda ticket: self._reserved[ticket].replica != replica)[:1]:
                self._release(ticket)
                self._early.add(ticket)
            return
        self._subtract(running.pop(0))
        if not running:
            del self._running[request_id, replica]

    def set_replicas(self, replicas: Sequence[str]) -> None:
        """Forget all others: their requests are lost or will be sent anew, and their caches are gone."""
        known = set(self._own) | set(self._served) | set(self._reports) | self._index.replicas()
        for gone in known - set(replicas):
            self.remove(gone)

    def remove(self, replica: str) -> None:
        self._index.remove(replica)
        self._reports.pop(replica, None)
        self._reserved = {at: kept for at, kept in self._reserved.items() if kept.replica != replica}
        for key in [key for key in self._running if key[1] == replica]:
            del self._running[key]
        self._own.pop(replica, None)
        self._served.pop(replica, None)

    def report(self, replica: str, report: Report, now: float) -> None:
        """What a replica says of itself; the same report again does not make it younger."""
        known = self._reports.get(replica)
        if known is not None and known[1] == report:
            return
        self._reports[replica] = now, report
        if report.cache_tokens:
            self._index.set_capacity(replica, report.cache_tokens // BLOCK_TOKENS)

    def load(self, replica: str, now: float) -> float:
        """Outstanding tokens: of this router, and of others as far as it is known."""
        return max(0.0, self._own.get(replica, 0.0)) + self._of_others(replica, now)

    def _order(self, candidate: Candidate, hint: RoutingHint) -> tuple[bool, float, int, float]:
        """Within the bound first, by the tokens before and of the request; beyond it by load alone.

        Ties, as when nobody has anything to do, are broken by the prompt's first block, in the same way by every router
        (rendezvous hashing): routers that know nothing of each other send a new prefix to the same replica.
        """
        weighed = hint.num_completion_tokens + self._prefix_weight * (candidate.work - hint.num_completion_tokens)
        cost = candidate.load + (weighed if candidate.is_within_bound else 0.0)
        tie = float(_weight(candidate.replica, hint.keys[0])) if hint.keys else self._served[candidate.replica]
        return not candidate.is_within_bound, cost, -candidate.num_cached_blocks, tie

    def _of_others(self, replica: str, now: float) -> float:
        at, report = self._reports.get(replica, (now, Report()))
        if now - at > self._report_lifetime_s:
            return 0.0
        return sum(tokens for sender, tokens in report.outstanding.items() if sender != self._sender)

    def _reserve(self, ticket: int, assignment: Assignment) -> None:
        self._reserved[ticket] = assignment
        self._own[assignment.replica] += assignment.num_tokens

    def _release(self, ticket: int) -> None:
        assignment = self._reserved.pop(ticket, None)
        if assignment is not None:
            self._subtract(assignment)

    def _subtract(self, assignment: Assignment) -> None:
        """Sums of floats drift: a replica without requests has exactly nothing to do."""
        left = self._own[assignment.replica] - assignment.num_tokens
        self._own[assignment.replica] = left if left > 1e-6 else 0.0

    def _expire(self, now: float) -> None:
        old = [at for at, kept in self._reserved.items() if now - kept.at > RESERVATION_LIFETIME_S]
        for ticket in old:
            self._release(ticket)


def _weight(replica: str, first_key: int) -> int:
    seed = first_key.to_bytes(8, "little")
    return int.from_bytes(blake2b(replica.encode(), digest_size=8, key=seed).digest(), "little")
