from __future__ import annotations

from fastserve_ray.serve.quota.drain import MAX_RETRY_AFTER_S, WINDOW_S, Drain


def test_the_wait_is_the_queue_over_the_rate() -> None:
    drain = Drain()
    for at in range(21):
        drain.note(at / 2)
    assert drain.per_second(10.0) == 2.1
    assert drain.retry_after_s(10, 10.0) == 5
    assert drain.retry_after_s(1, 10.0) == 1
    assert drain.retry_after_s(10**6, 10.0) == MAX_RETRY_AFTER_S


def test_a_rate_is_forgotten_after_its_window() -> None:
    drain = Drain()
    drain.note(0.0)
    assert drain.per_second(WINDOW_S + 1) == 0
    assert drain.retry_after_s(5, WINDOW_S + 1) == MAX_RETRY_AFTER_S
    assert Drain().retry_after_s(1, 0.0) == 1
