"""How many rows of a batch each worker gets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.training.balance.fit import Line

Shares = tuple[int, ...]
"""Rows by data rank; their sum is the batch."""
MOST = 2.0
"""Times the even share that a worker may get: what its activations take grows with it."""
_HALVINGS = 60


def even_shares(batch_size: int, workers: int) -> Shares:
    """As equal as can be, the larger ones first, as ``numpy.array_split`` cuts."""
    each, rest = divmod(batch_size, workers)
    return tuple(each + (rank < rest) for rank in range(workers))


def cut_points(num_rows: int, shares: Shares) -> list[int]:
    """Where each worker's rows of a batch of ``num_rows`` begin, and at last their end. A batch smaller than the sum
    of ``shares`` is cut in the same proportions."""
    total, points, given = sum(shares), [0], 0
    for share in shares:
        given += share
        points.append(given * num_rows // total)
    return points


def step_seconds(lines: Sequence[Line], shares: Sequence[float]) -> float:
    """Of the slowest worker."""
    return max(line(rows) for line, rows in zip(lines, shares, strict=True))


def best_shares(lines: Sequence[Line], batch_size: int) -> Shares:
    """Whole numbers of rows that (nearly) minimise ``step_seconds``.

    Every worker keeps at least one row, so that its speed is still seen, and gets at most ``MOST`` times the even
    share. The time in which all together manage the batch is found by halving; rows left over by rounding down go to
    whoever is done first with one more.
    """
    most = max(1, int(MOST * batch_size / len(lines)))
    if batch_size < len(lines):
        return even_shares(batch_size, len(lines))

    def rows_in(seconds: float) -> list[int]:
        return [min(most, max(1, int((seconds - line.a) / line.b))) for line in lines]

    low, high = 0.0, step_seconds(lines, [batch_size] * len(lines))
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if sum(rows_in(middle)) > batch_size else (middle, high)
    shares = rows_in(low)
    while sum(shares) < batch_size:
        free = [rank for rank, rows in enumerate(shares) if rows < most]
        shares[min(free, key=lambda rank: lines[rank](shares[rank] + 1))] += 1
    return tuple(shares)
