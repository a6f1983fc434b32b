"""A module goes into structure and tensors and comes back."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn

from fastserve_ray.errors import ModelError
from fastserve_ray.models.pieces import put_together, take_apart


class Tied(nn.Module):
    """Two names of one weight, a buffer, and a setting that others share."""

    def __init__(self, config: dict[str, int]) -> None:
        super().__init__()
        self.config = config
        self.first = nn.Linear(3, 2)
        self.second = nn.Linear(3, 2, bias=False)
        self.second.weight = self.first.weight
        self.register_buffer("table", torch.arange(4))


def test_a_module_comes_back_over_the_same_memory() -> None:
    config = {"size": 3}
    module = Tied(config)
    piece = take_apart("name", module, [config])
    assert piece.name == "name"
    assert len(piece.tensors) == 3
    assert piece.num_bytes == 4 * (6 + 2) + 8 * 4
    back = put_together(piece.structure, piece.tensors, [config])
    assert back.config is config
    assert back.first.weight is back.second.weight
    assert isinstance(back.first.weight, nn.Parameter)
    assert not back.first.weight.requires_grad
    assert back.first.weight.data_ptr() == module.first.weight.data_ptr()
    assert back.table.data_ptr() == module.get_buffer("table").data_ptr()
    rows = torch.randn(5, 3)
    assert torch.equal(back.first(rows), module.first(rows))


def test_the_structure_holds_no_weights() -> None:
    small, large = (take_apart("", nn.Linear(size, size)) for size in (2, 512))
    assert abs(len(large.structure) - len(small.structure)) < 100


def test_what_cannot_be_pickled_is_named() -> None:
    module = nn.Linear(2, 2)
    module.lock = threading.Lock()
    with pytest.raises(ModelError, match=r"cannot be taken apart .*lock"):
        take_apart("", module)
