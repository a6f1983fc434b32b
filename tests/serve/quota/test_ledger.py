from __future__ import annotations

import math

from fastserve_ray.serve.quota.headers import duration, limit_headers, rate_limited
from fastserve_ray.serve.quota.ledger import Ledger
from fastserve_ray.spec.keys import ApiKey, hash_of


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def ledger(clock: Clock) -> Ledger:
    keys = [
        ApiKey(name="few", sha256=hash_of("a"), requests_per_minute=2, tokens_per_minute=100),
        ApiKey(name="free", sha256=hash_of("b")),
    ]
    return Ledger(keys, clock)


def test_requests_run_out_and_come_back() -> None:
    clock = Clock()
    book = ledger(clock)
    assert [book.take("few", "m", 1).lacking for _ in range(3)] == [None, None, "requests"]
    clock.now = 29.9
    assert book.take("few", "m", 1).lacking == "requests"
    clock.now = 30.0
    assert book.take("few", "m", 1).lacking is None


def test_tokens_are_taken_by_the_estimate_and_settled_by_what_was_used() -> None:
    clock = Clock()
    book = ledger(clock)
    assert book.take("few", "m", 80).tokens == book.take("few", "m", 40).tokens
    verdict = book.take("few", "m", 40)
    assert (verdict.lacking, verdict.asked, verdict.wait_s) == ("tokens", 40, 12.0)
    book.settle("few", "m", 80, 10, 20)
    verdict = book.take("few", "m", 40)
    assert verdict.lacking is None
    assert verdict.tokens is not None
    assert verdict.tokens.remaining == 30


def test_a_refused_request_costs_nothing() -> None:
    book = ledger(Clock())
    for _ in range(10):
        assert math.isinf(book.take("few", "m", 101).wait_s)
    assert book.take("few", "m", 100).lacking is None


def test_usage_by_key_and_model() -> None:
    book = ledger(Clock())
    book.take("free", "a", 10)
    book.settle("free", "a", 10, 3, 4)
    book.take("free", "b", 10**9)
    book.take("few", "a", 1000)
    (a, b) = book.usage("free").used
    assert (a.model, a.num_requests, a.num_prompt_tokens, a.num_completion_tokens) == ("a", 1, 3, 4)
    assert (b.model, b.num_requests, b.num_refused) == ("b", 1, 0)
    first = book.usage().used[0]
    assert (first.key, first.num_requests, first.num_refused) == ("few", 0, 1)
    assert len(book.usage().used) == 3


def test_headers_are_openais() -> None:
    book = ledger(Clock())
    assert limit_headers(book.take("few", "m", 25)) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "75",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert limit_headers(book.take("free", "m", 25)) == {}
    assert [duration(seconds) for seconds in (0.0, 0.1234, 1.5, 60, 361.25)] == [
        "0ms", "124ms", "1.5s", "1m0s", "6m1.25s",
    ]  # fmt: skip


def test_a_429_says_what_is_lacking_and_when_to_come_back() -> None:
    book = ledger(Clock())
    book.take("few", "m", 90)
    failure = rate_limited("few", book.take("few", "m", 35))
    assert (failure.status, failure.type, failure.code) == (429, "tokens", "rate_limit_exceeded")
    assert failure.retry_after_s == 15
    assert "few" in failure.message
    never = rate_limited("few", book.take("few", "m", 101))
    assert never.retry_after_s is None
    assert "too large" in never.message
