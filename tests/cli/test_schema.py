from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.schema import json_schema
from tests.cli.commands import fastserve

if TYPE_CHECKING:
    import pytest


def test_it_prints_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    outcome = fastserve(capsys, "schema")
    assert outcome.code == 0
    assert outcome.data == json_schema()
