"""Tensors as objects of bounded size."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch

from fastserve_ray.models.pieces import Piece
from fastserve_ray.weights.objects import describe, objects_of, tensors_of

TENSORS = (
    torch.randn(3, 5),
    torch.randn(4, 6).bfloat16().t(),
    torch.tensor(2.5),
    torch.empty(0, 7),
    torch.arange(-4, 4, dtype=torch.int8),
    torch.tensor([True, False]),
    torch.arange(3),
)


@pytest.mark.parametrize("max_bytes", [1, 100, 10_000])
def test_tensors_come_back(max_bytes: int) -> None:
    piece = Piece("a", b"structure", TENSORS)
    header = describe(piece, max_bytes)
    objects = list(objects_of(piece, header))
    assert len(objects) == header.num_objects
    for each in itertools.chain.from_iterable(objects):
        each.flags.writeable = False  # as Ray gives them
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        back = tensors_of(header, objects)
    for tensor, expected in zip(back, TENSORS, strict=True):
        assert tensor.dtype == expected.dtype
        assert tensor.shape == expected.shape
        assert torch.equal(tensor, expected)
    assert back[0].data_ptr() == objects[0][0].ctypes.data
    assert header.num_bytes == piece.num_bytes


def test_only_a_single_tensor_is_larger_than_an_object_may_be() -> None:
    sizes = (30, 30, 30, 500, 10, 95)
    piece = Piece("a", b"", tuple(torch.zeros(size, dtype=torch.uint8) for size in sizes))
    objects = list(objects_of(piece, describe(piece, 100)))
    assert [[len(array) for array in each] for each in objects] == [[30, 30, 30], [500], [10], [95]]


def test_a_piece_without_tensors_has_no_objects() -> None:
    header = describe(Piece("a", b"x", ()))
    assert (header.num_objects, header.num_bytes) == (0, 0)
    assert tensors_of(header, []) == []
