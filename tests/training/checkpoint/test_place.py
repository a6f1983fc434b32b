"""Parts of a parameter, cut and put together again."""

from __future__ import annotations

import pytest
import torch

from fastserve_ray.training.checkpoint.place import Place

WHOLE = torch.arange(24.0).reshape(4, 6)


def fused(rank: int, size: int) -> Place:
    """As tensor parallelism cuts a fused projection of two: a run of each half."""
    width = 3 // size if 3 % size == 0 else 1
    runs = [(half + rank * width, half + (rank + 1) * width) for half in (0, 3)]
    return Place.along(WHOLE.shape, 1, runs)


@pytest.mark.parametrize(
    "places",
    [
        [Place.whole(WHOLE.shape)],
        [Place.whole(WHOLE.shape).share(rank, 5) for rank in range(5)],
        [Place.along(WHOLE.shape, 0, [(first, first + 2)]) for first in (0, 2)],
        [fused(rank, 3) for rank in range(3)],
        [fused(rank, 3).share(part, 2) for rank in range(3) for part in range(2)],
    ],
)
def test_parts_make_up_the_whole(places: list[Place]) -> None:
    assert sum(place.numel for place in places) == WHOLE.numel()
    found = torch.full_like(WHOLE, -1)
    for place in places:
        values = place.cut(WHOLE)
        assert values.shape == (place.numel,)
        place.paste(found, values)
    assert found.equal(WHOLE)


def test_a_part_holds_its_runs_in_their_order() -> None:
    place = Place.along(WHOLE.shape, 1, [(4, 6), (1, 2)])
    assert place.part_shape == (4, 3)
    assert place.cut(WHOLE).view(place.part_shape)[0].tolist() == [4.0, 5.0, 1.0]
    assert place.flat(1, 3).cut(WHOLE).tolist() == [5.0, 1.0, 10.0]


def test_more_shares_than_elements_are_empty_and_a_number_is_one_element() -> None:
    assert [Place.whole((2,)).share(rank, 3).numel for rank in range(3)] == [0, 1, 1]
    assert Place.whole(()).numel == 1


def test_it_survives_json() -> None:
    place = fused(1, 3).flat(2, 3)
    assert Place.from_json(place.to_json()) == place
