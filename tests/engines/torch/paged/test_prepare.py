"""Start-up of a paged engine: what a kernel that fails in some shape leads to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from fastserve_ray.engines.torch.kv_cache import KvOps
from fastserve_ray.engines.torch.paged.kernels import DenseKernel
from fastserve_ray.engines.torch.paged.prepare import prepare_paged
from fastserve_ray.engines.torch.paged.step import PagedLimits
from fastserve_ray.engines.torch.ragged import Span
from fastserve_ray.engines.torch.runner import Runner, StepInput, adopt
from fastserve_ray.errors import EngineError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_model

CPU = torch.device("cpu")


class NoLongChunks(DenseKernel):
    """As a kernel whose tiles do not fit the GPU's memory."""

    def __call__(self, query: torch.Tensor, *others: Any, **options: Any) -> torch.Tensor:
        if query.shape[2] > 16:
            raise RuntimeError("out of resource: shared memory\nand more")
        return super().__call__(query, *others, **options)


def runner_with(kernel: DenseKernel) -> Runner:
    model = build_model()
    return Runner(model, adopt(model), 256, paged=(kernel, PagedLimits(4, 64, 64)))


def logits_of_a_prompt(runner: Runner) -> torch.Tensor:
    span = Span(0, 0, 20, np.arange(20), is_contiguous=True)
    return runner.execute(StepInput(list(range(3, 23)), np.arange(20), [span], [19], KvOps()))


def test_a_kernel_that_fails_gives_way_to_the_gather_path(caplog: pytest.LogCaptureFixture) -> None:
    expected = logits_of_a_prompt(runner_with(DenseKernel()))
    runner = runner_with(NoLongChunks())
    prepare_paged(runner, CPU, EngineSpec())
    assert runner.paged is None
    assert caplog.messages == [
        "attention gathers, since flex attention failed on this GPU: out of resource: shared memory"
    ]
    torch.testing.assert_close(logits_of_a_prompt(runner), expected)


def test_a_kernel_that_was_asked_for_must_not_fail() -> None:
    with pytest.raises(EngineError, match="out of resource"):
        prepare_paged(runner_with(NoLongChunks()), CPU, EngineSpec(attention="flex"))


def test_a_kernel_that_works_stays() -> None:
    runner = runner_with(DenseKernel())
    prepare_paged(runner, CPU, EngineSpec())
    assert runner.paged is not None
