from __future__ import annotations

import json
import math

import pytest

from fastserve_ray.serve.quota.headers import duration, limit_headers, rate_limited
from fastserve_ray.serve.quota.ledger import Allowance, Ledger, Verdict

ALLOWANCES = {"few": Allowance(requests=2, tokens=100), "free": Allowance()}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Book(Ledger):
    """Knows whose request has which allowance."""

    def ask(self, key: str, model: str, num_tokens: int) -> Verdict:
        return self.take(key, model, num_tokens, ALLOWANCES[key])


def ledger(clock: Clock) -> Book:
    return Book(clock, wall=lambda: 1000.0 + clock.now)


def test_requests_run_out_and_come_back() -> None:
    clock = Clock()
    book = ledger(clock)
    assert [book.ask("few", "m", 1).lacking for _ in range(3)] == [None, None, "requests"]
    clock.now = 29.9
    assert book.ask("few", "m", 1).lacking == "requests"
    clock.now = 30.0
    assert book.ask("few", "m", 1).lacking is None


def test_tokens_are_taken_by_the_estimate_and_settled_by_what_was_used() -> None:
    clock = Clock()
    book = ledger(clock)
    assert book.ask("few", "m", 80).tokens == book.ask("few", "m", 40).tokens
    verdict = book.ask("few", "m", 40)
    assert (verdict.lacking, verdict.asked, verdict.wait_s) == ("tokens", 40, 12.0)
    book.settle("few", "m", 80, 10, 20)
    verdict = book.ask("few", "m", 40)
    assert verdict.lacking is None
    assert verdict.tokens is not None
    assert verdict.tokens.remaining == 30


def test_a_refused_request_costs_nothing() -> None:
    book = ledger(Clock())
    for _ in range(10):
        assert math.isinf(book.ask("few", "m", 101).wait_s)
    assert book.ask("few", "m", 100).lacking is None


def test_usage_by_key_and_model() -> None:
    book = ledger(Clock())
    book.ask("free", "a", 10)
    book.settle("free", "a", 10, 3, 4)
    book.ask("free", "b", 10**9)
    book.ask("few", "a", 1000)
    (a, b) = book.usage("free").used
    assert (a.model, a.num_requests, a.num_prompt_tokens, a.num_completion_tokens) == ("a", 1, 3, 4)
    assert (b.model, b.num_requests, b.num_refused) == ("b", 1, 0)
    first = book.usage().used[-1]
    assert (first.key, first.num_requests, first.num_refused) == ("few", 0, 1)
    assert len(book.usage().used) == 3


def test_headers_are_openais() -> None:
    book = ledger(Clock())
    assert limit_headers(book.ask("few", "m", 25)) == {
        "x-ratelimit-limit-requests": "2",
        "x-ratelimit-remaining-requests": "1",
        "x-ratelimit-reset-requests": "30s",
        "x-ratelimit-limit-tokens": "100",
        "x-ratelimit-remaining-tokens": "75",
        "x-ratelimit-reset-tokens": "15s",
    }
    assert limit_headers(book.ask("free", "m", 25)) == {}
    assert [duration(seconds) for seconds in (0.0, 0.1234, 1.5, 60, 361.25)] == [
        "0ms", "124ms", "1.5s", "1m0s", "6m1.25s",
    ]  # fmt: skip


def test_a_429_says_what_is_lacking_and_when_to_come_back() -> None:
    book = ledger(Clock())
    book.ask("few", "m", 90)
    failure = rate_limited("few", book.ask("few", "m", 35))
    assert (failure.status, failure.type, failure.code) == (429, "tokens", "rate_limit_exceeded")
    assert failure.retry_after_s == 15
    assert "few" in failure.message
    never = rate_limited("few", book.ask("few", "m", 101))
    assert never.retry_after_s is None
    assert "too large" in never.message


def test_an_allowance_that_changes_leaves_what_was_used() -> None:
    clock = Clock()
    book = Ledger(clock)
    book.take("a", "m", 80, Allowance(tokens=100))
    verdict = book.take("a", "m", 0, Allowance(tokens=200))
    assert verdict.tokens is not None
    assert (verdict.tokens.limit, verdict.tokens.remaining) == (200, 120)
    assert book.take("a", "m", 41, Allowance(tokens=120)).lacking == "tokens"
    assert book.take("a", "m", 10**6, Allowance()).tokens is None


def test_a_ledger_that_is_restored_goes_on_where_the_other_was() -> None:
    """Its own clock may begin anywhere; allowances have refilled meanwhile."""
    clock, later = Clock(), Clock()
    book = ledger(clock)
    book.ask("few", "m", 80)
    book.settle("few", "m", 80, 20, 70)
    book.ask("free", "m", 5)
    state = json.loads(json.dumps(book.state()))
    later.now = 5.0
    restored = Book(later, wall=lambda: 1006.0)
    restored.restore(state)
    assert restored.usage() == book.usage()
    verdict = restored.ask("few", "m", 21)
    assert verdict.lacking == "tokens"
    assert verdict.wait_s == pytest.approx(0.6)
    assert restored.ask("few", "m", 20).lacking is None
    assert restored.ask("few", "m", 0).lacking == "requests"
