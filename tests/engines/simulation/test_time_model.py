from __future__ import annotations

import random

import pytest

from fastserve_ray.engines.simulation.time_model import StepLoad, TimeModel
from fastserve_ray.engines.torch.profile import Profile

MODEL = TimeModel(fixed=4.0, row=0.5, prompt_token=0.1, context_token=0.01, swapped_block=2.0)


def random_load(draw: random.Random) -> StepLoad:
    return StepLoad(draw.randint(1, 16), draw.randint(0, 200), draw.randint(10, 2000))


def test_seconds_of_a_step_by_hand() -> None:
    load = StepLoad(num_decode_rows=4, num_prompt_tokens=30, num_context_tokens=100)
    assert MODEL.compute_seconds(load) == pytest.approx(4 + 2 + 3 + 1)
    assert MODEL.waiting_seconds(load) == 0.0


def test_swaps_run_beside_the_step() -> None:
    hidden = StepLoad(4, 30, 100, num_swapped_blocks=5)
    shown = StepLoad(4, 30, 100, num_swapped_blocks=7)
    assert MODEL.waiting_seconds(hidden) == 0.0
    assert MODEL.waiting_seconds(shown) == pytest.approx(4.0)


def test_a_step_that_only_moves_blocks_takes_as_long_as_that() -> None:
    load = StepLoad(0, 0, 0, num_swapped_blocks=3)
    assert MODEL.compute_seconds(load) == 0.0
    assert MODEL.waiting_seconds(load) == 6.0


def test_fit_finds_what_made_the_steps() -> None:
    draw = random.Random(0)
    loads = [random_load(draw) for _ in range(200)]
    steps = [(load, MODEL.compute_seconds(load) * draw.uniform(0.99, 1.01)) for load in loads]
    fitted = TimeModel.fit(steps)
    for load in loads:
        assert fitted.compute_seconds(load) == pytest.approx(MODEL.compute_seconds(load), rel=0.02)


def test_fit_has_no_negative_costs() -> None:
    draw = random.Random(0)
    loads = [random_load(draw) for _ in range(50)]
    fitted = TimeModel.fit([(load, 10.0 - 0.1 * load.num_decode_rows) for load in loads])
    assert min(fitted.fixed, fitted.row, fitted.prompt_token, fitted.context_token) >= 0
    assert fitted.row == 0


def test_fit_needs_steps() -> None:
    with pytest.raises(ValueError, match="at least one"):
        TimeModel.fit([])


def test_from_profile_agrees_with_it() -> None:
    profile = Profile(prefill=((16, 2.6), (128, 13.8)), decode_seconds=1.1)
    model = TimeModel.from_profile(profile)
    assert model.compute_seconds(StepLoad(1, 0, 1)) == pytest.approx(1.1)
    slope = model.compute_seconds(StepLoad(0, 128, 0)) - model.compute_seconds(StepLoad(0, 16, 0))
    assert slope == pytest.approx(11.2)
