from __future__ import annotations

import math
import random

import pytest

from fastserve_ray.serve.quota.bucket import Bucket


def test_it_holds_a_minutes_worth_and_refills_evenly() -> None:
    bucket = Bucket(60, now=0.0)
    for _ in range(60):
        assert bucket.wait(1, 0.0) == 0
        bucket.take(1, 0.0)
    assert bucket.wait(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait(30, 0.0) == pytest.approx(30.0)
    assert bucket.wait(1, 1.0) == 0
    assert bucket.left(30.0).remaining == 30
    assert bucket.left(30.0).reset_s == pytest.approx(30.0)
    assert bucket.left(1000.0).remaining == 60


def test_more_than_it_holds_never_comes() -> None:
    assert math.isinf(Bucket(60, 0.0).wait(61, 0.0))


def test_a_debt_is_paid_before_anything_is_given() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(90, 0.0)
    assert bucket.left(0.0).remaining == 0
    assert bucket.wait(1, 0.0) == pytest.approx(31.0)


def test_what_is_given_back_does_not_overflow() -> None:
    bucket = Bucket(60, 0.0)
    bucket.take(-100, 0.0)
    assert bucket.left(0.0).remaining == 60


def test_no_minute_gets_more_than_two_minutes_worth() -> None:
    """The bound of a token bucket: what it held, and what flowed in."""
    draw, bucket, now = random.Random(0), Bucket(100, 0.0), 0.0
    taken: list[tuple[float, int]] = []
    for _ in range(5000):
        now += draw.expovariate(5.0)
        amount = draw.randint(1, 20)
        if bucket.wait(amount, now) == 0:
            bucket.take(amount, now)
            taken.append((now, amount))
    sums = [sum(amount for at, amount in taken if start <= at < start + 60) for start, _ in taken]
    assert 100 < max(sums) <= 200
    assert sum(amount for _, amount in taken) <= 100 + 100 * now / 60
