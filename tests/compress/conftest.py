"""One trained model a task for all tests of compression."""

from __future__ import annotations

import pytest

from tests.compress.trained import Trained, make_trained


@pytest.fixture(scope="session", params=["text-generation", "text-classification"])
def trained(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return make_trained(tmp_path_factory.mktemp("trained"), request.param)
