"""The allowances of all keys, and what each has used."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from fastserve_ray.serve.quota.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.serve.quota.bucket import Left
    from fastserve_ray.spec.keys import ApiKey


@dataclass(frozen=True)
class Allowance:
    """Of one key, a minute; None: no limit. It comes with every request, so that a ledger need not know keys, and one
    that has started anew counts right."""

    requests: int | None = None
    tokens: int | None = None


def allowance_of(key: ApiKey | None) -> Allowance:
    return Allowance() if key is None else Allowance(key.requests_per_minute, key.tokens_per_minute)


@dataclass(frozen=True)
class Verdict:
    """Whether a request may go on."""

    lacking: str | None = None
    """``requests`` or ``tokens``, where there are too few."""
    asked: int = 0
    """Of what is lacking."""
    wait_s: float = 0.0
    """Until the same request would be let in; infinite: never."""
    requests: Left | None = None
    tokens: Left | None = None


@dataclass
class Used:
    """By one key, of one model, since the ledger was opened."""

    key: str
    model: str
    num_requests: int = 0
    """Let in."""
    num_refused: int = 0
    """For want of requests or tokens."""
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0

    def add(self, more: Used) -> None:
        """Of the same key and model."""
        self.num_requests += more.num_requests
        self.num_refused += more.num_refused
        self.num_prompt_tokens += more.num_prompt_tokens
        self.num_completion_tokens += more.num_completion_tokens


@dataclass(frozen=True)
class Usage:
    """What the ledger holds."""

    since: float
    """Unix time."""
    used: tuple[Used, ...]


@dataclass
class _Account:
    requests: Bucket | None = None
    tokens: Bucket | None = None
    used: dict[str, Used] = field(default_factory=dict)
    """By model."""


class Ledger:
    """One for an application.

    Args:
        clock: seconds, for the allowances.
        wall: seconds since the epoch, for what is told and kept.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._wall = wall
        self._since = wall()
        self._accounts: dict[str, _Account] = {}

    def take(self, key: str, model: str, num_tokens: int, allowance: Allowance) -> Verdict:
        """Let a request in, if its key has one left and so many tokens, which are taken."""
        account, now = self._account(key), self._clock()
        account.requests = _of_size(account.requests, allowance.requests, now)
        account.tokens = _of_size(account.tokens, allowance.tokens, now)
        used = account.used.setdefault(model, Used(key, model))
        waits = [
            (bucket.wait(amount, now), name, amount)
            for name, bucket, amount in (("requests", account.requests, 1), ("tokens", account.tokens, num_tokens))
            if bucket is not None
        ]
        wait_s, lacking, asked = max(waits, default=(0.0, "", 0))
        if wait_s > 0:
            used.num_refused += 1
            return self._verdict(account, now, lacking, asked, wait_s)
        self._charge(account, 1, num_tokens, now)
        used.num_requests += 1
        return self._verdict(account, now)

    def settle(self, key: str, model: str, taken: int, num_prompt_tokens: int, num_completion_tokens: int) -> None:
        """A request has ended that took ``taken`` tokens on its way in."""
        account = self._account(key)
        used = account.used.setdefault(model, Used(key, model))
        used.num_prompt_tokens += num_prompt_tokens
        used.num_completion_tokens += num_completion_tokens
        self._charge(account, 0, num_prompt_tokens + num_completion_tokens - taken, self._clock())

    def add(self, used: Used) -> None:
        """What requests of a key without limits have used."""
        self._account(used.key).used.setdefault(used.model, Used(used.key, used.model)).add(used)

    def usage(self, key: str | None = None) -> Usage:
        """Of one key, or of all."""
        names = list(self._accounts) if key is None else [key]
        return Usage(self._since, tuple(used for name in names for used in self._account(name).used.values()))

    def state(self) -> dict[str, Any]:
        """Plain values, for `restore`: levels of the buckets as of now."""
        now = self._clock()
        accounts = {
            key: {
                "requests": _saved(account.requests, now),
                "tokens": _saved(account.tokens, now),
                "used": [asdict(used) for used in account.used.values()],
            }
            for key, account in self._accounts.items()
        }
        return {"since": self._since, "at": self._wall(), "accounts": accounts}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; allowances have refilled meanwhile."""
        at = self._clock() - max(0.0, self._wall() - float(state["at"]))
        self._since = float(state["since"])
        for key, saved in state["accounts"].items():
            self._accounts[key] = _Account(
                _restored(saved["requests"], at),
                _restored(saved["tokens"], at),
                {used["model"]: Used(**used) for used in saved["used"]},
            )

    def _account(self, key: str) -> _Account:
        return self._accounts.setdefault(key, _Account())

    @staticmethod
    def _charge(account: _Account, num_requests: int, num_tokens: int, now: float) -> None:
        if account.requests is not None:
            account.requests.take(num_requests, now)
        if account.tokens is not None:
            account.tokens.take(num_tokens, now)

    @staticmethod
    def _verdict(
        account: _Account, now: float, lacking: str | None = None, asked: int = 0, wait_s: float = 0.0
    ) -> Verdict:
        return Verdict(
            lacking,
            asked,
            wait_s,
            None if account.requests is None else account.requests.left(now),
            None if account.tokens is None else account.tokens.left(now),
        )


def _of_size(bucket: Bucket | None, limit: int | None, now: float) -> Bucket | None:
    """The bucket of a key whose allowance is now ``limit``."""
    if limit is None:
        return None
    if bucket is None:
        return Bucket(limit, now)
    if bucket.limit != limit:
        bucket.resize(limit, now)
    return bucket


def _saved(bucket: Bucket | None, now: float) -> list[float] | None:
    return None if bucket is None else [bucket.limit, bucket.level(now)]


def _restored(saved: list[float] | None, at: float) -> Bucket | None:
    return None if saved is None else Bucket(int(saved[0]), at, saved[1])
