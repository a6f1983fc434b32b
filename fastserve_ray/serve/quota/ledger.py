"""The allowances of all keys, and what each has used."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from fastserve_ray.serve.quota.bucket import Bucket

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fastserve_ray.serve.quota.bucket import Left
    from fastserve_ray.spec.keys import ApiKey


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


@dataclass(frozen=True)
class Usage:
    """What the ledger holds."""

    since: float
    """Unix time."""
    used: tuple[Used, ...]


@dataclass
class _Account:
    requests: Bucket | None
    tokens: Bucket | None
    used: dict[str, Used] = field(default_factory=dict)
    """By model."""


class Ledger:
    """One for an application.

    Args:
        clock: seconds, for the allowances.
    """

    def __init__(self, keys: Iterable[ApiKey] = (), clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = time.time()
        self._accounts = {key.name: self._open(key.requests_per_minute, key.tokens_per_minute) for key in keys}

    def take(self, key: str, model: str, num_tokens: int) -> Verdict:
        """Let a request in, if its key has one left and so many tokens, which are taken."""
        account, now = self._account(key), self._clock()
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

    def usage(self, key: str | None = None) -> Usage:
        """Of one key, or of all."""
        names = list(self._accounts) if key is None else [key]
        return Usage(self._since, tuple(used for name in names for used in self._account(name).used.values()))

    def _account(self, key: str) -> _Account:
        return self._accounts.setdefault(key, _Account(None, None))

    def _open(self, requests: int | None, tokens: int | None) -> _Account:
        now = self._clock()
        return _Account(
            None if requests is None else Bucket(requests, now), None if tokens is None else Bucket(tokens, now)
        )

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
