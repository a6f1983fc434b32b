"""Tables of names."""

from __future__ import annotations

from collections import OrderedDict

import pytest

from fastserve_ray.errors import UnknownNameError
from fastserve_ray.lazy import LazyTable

TABLE = LazyTable("shape", "serve.shape", {"ordered": "collections:OrderedDict", "broken": "collections:Nothing"})


def test_a_known_name_loads_its_object() -> None:
    assert TABLE.load("ordered") is OrderedDict


def test_a_third_party_path_loads_too() -> None:
    assert TABLE.load("collections:OrderedDict") is OrderedDict


def test_an_unknown_name_lists_the_known_ones_and_the_nearest() -> None:
    with pytest.raises(UnknownNameError) as caught:
        TABLE.load("orderd")
    assert "broken, ordered" in str(caught.value)
    assert "did you mean 'ordered'?" in str(caught.value)
    assert caught.value.key == "serve.shape"


@pytest.mark.parametrize("name", ["broken", "no_such_module:thing"])
def test_a_target_that_does_not_import_says_why(name: str) -> None:
    with pytest.raises(UnknownNameError, match="cannot import shape"):
        TABLE.load(name)
