"""Fixtures that many tests share."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from xdist.scheduler import LoadFileScheduling

from fastserve_ray.serve.environment import set_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
set_environment()

WITH_RAY = ("tests/integration/", "tests/deployments/", "tests/weights/", "tests/serve/test_stored.py")
"""Tests that use the Ray of `ray_cluster`, or start one."""


class ByFile(LoadFileScheduling):
    """For ``pytest -n``: a file's tests run in one process, and the tests that share a Ray in the same one."""

    def _split_scope(self, nodeid: str) -> str:
        if nodeid.startswith(WITH_RAY):
            return WITH_RAY[0]
        return str(super()._split_scope(nodeid))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> ByFile:
    return ByFile(config, log)


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[str]:
    """One local Ray for all tests of the session; 8 logical CPUs, whatever the machine has."""
    import ray

    folder = tempfile.mkdtemp(prefix="fsr-ray-", dir="/tmp")  # short: Ray's socket paths have a length limit
    context = ray.init(
        num_cpus=8,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=512 * 2**20,
        _temp_dir=folder,
        log_to_driver=True,
        namespace="tests",
    )
    yield context.address_info["gcs_address"]
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """The folder with real models and data for extra tests, named by FASTSERVE_SHARED."""
    folder = os.environ.get("FASTSERVE_SHARED")
    if not folder or not Path(folder).is_dir():
        pytest.skip("FASTSERVE_SHARED does not name a folder: this extra test did not run")
    return Path(folder)
