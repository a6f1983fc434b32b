"""How a trial trains, where it runs, and how the next parameters are drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.errors import SpecError
from fastserve_ray.spec import TrainSpec, TuneSpec, Uniform
from fastserve_ray.spec.load import spec_from_dict, with_overrides
from fastserve_ray.tune.objective import Objective
from fastserve_ray.tune.placement import max_concurrent, room_for
from fastserve_ray.tune.records import TrialRecord
from fastserve_ray.tune.searchers import make_scheduler, make_searcher
from fastserve_ray.tune.settings import trial_spec, trial_train, tunes_compression

if TYPE_CHECKING:
    from fastserve_ray.spec import RunSpec

RATE = {"train.learning_rate": {"space": "loguniform", "lower": 1e-4, "upper": 1e-2}}


def make_spec(train: dict[str, Any] | None = None, **tune: Any) -> RunSpec:
    return spec_from_dict(
        {
            "name": "a",
            "model": {"config": {"model_type": "llama", "hidden_size": 16, "num_attention_heads": 2}},
            "data": {"train": {"kind": "python-docs"}, "max_length": 16},
            "train": {"batch_size": 8, "num_epochs": 2, "parallel": {"workers": 2, "zero": 2}, **(train or {})},
            "compress": [{"kind": "prune", "sparsity": 0.5}],
            "tune": {"parameters": RATE, **tune},
        }
    )


def test_parameters_change_the_spec() -> None:
    changed = trial_spec(make_spec(), {"train.learning_rate": 0.005, "compress.0.sparsity": 0.25})
    assert changed.train is not None
    assert changed.train.learning_rate == 0.005
    assert changed.compress[0].model_dump()["sparsity"] == 0.25
    assert changed.tune is None


def test_parameters_that_do_not_go_together_are_an_error() -> None:
    with pytest.raises(SpecError, match="batch_size"):
        trial_spec(make_spec(), {"train.batch_size": 7})


@pytest.mark.parametrize(
    ("tune", "steps", "every"),
    [({}, 26, 7), ({"max_steps": 10}, 10, 3), ({"max_steps": 3}, 3, 1), ({"eval_every_steps": 5}, 26, 5)],
)
def test_a_trial_has_steps_and_evaluations_of_its_own(tune: dict[str, Any], steps: int, every: int) -> None:
    spec = make_spec(**tune)
    train = trial_train(spec, trial_spec(spec, {"train.learning_rate": 0.005}), num_rows=100)
    assert (train.max_steps, train.eval_every_steps) == (steps, every)
    assert (train.parallel.workers, train.parallel.zero, train.learning_rate) == (1, 2, 0.005)


def test_a_trial_may_have_workers() -> None:
    spec = make_spec(workers_per_trial=4)
    assert trial_train(spec, trial_spec(spec, {}), num_rows=100).parallel.workers == 4


def test_searches_over_compression_are_known() -> None:
    assert not tunes_compression(make_spec())
    sparsity = {"compress.0.sparsity": {"space": "uniform", "lower": 0.1, "upper": 0.9}}
    assert tunes_compression(make_spec(parameters=sparsity))


def test_a_search_over_compression_has_one_worker_a_trial() -> None:
    sparsity = {"compress.0.sparsity": {"space": "uniform", "lower": 0.1, "upper": 0.9}}
    with pytest.raises(SpecError, match="in the trial's own process"):
        make_spec(parameters=sparsity, workers_per_trial=2)


@pytest.mark.parametrize(
    ("present", "workers", "room"), [({"CPU": 8.0}, 2, 3), ({"CPU": 1.0}, 2, 1), ({"CPU": 16.8, "GPU": 1.0}, 2, 8)]
)
def test_room_counts_the_drivers_too(present: dict[str, float], workers: int, room: int) -> None:
    assert room_for(TrainSpec(), workers, present) == room


def test_room_counts_gpus() -> None:
    train = TrainSpec.model_validate({"resources_per_worker": {"CPU": 1, "GPU": 1}})
    assert room_for(train, 2, {"CPU": 64.0, "GPU": 4.0}) == 2


def test_room_is_that_of_the_nodes_that_may_come() -> None:
    types = {"head": {"resources": {"CPU": 2}}, "worker": {"resources": {"CPU": 9}, "max_workers": 3}}
    cluster = {"address": "auto", "head_node_type": "head", "available_node_types": types}
    spec = with_overrides(make_spec(workers_per_trial=4), {"cluster": cluster})
    assert max_concurrent(spec) == 6


def drawn(searcher: Any, count: int) -> list[float]:
    """Parameters that Optuna suggests when each trial ends before the next is drawn."""
    from ray import tune

    searcher.set_search_properties("eval_loss", "min", {"train.learning_rate": tune.uniform(0.0, 1.0)})
    values = []
    for number in range(count):
        config = searcher.suggest(f"t{number}")
        values.append(config["train.learning_rate"])
        searcher.on_trial_complete(f"t{number}", {"eval_loss": values[-1], "training_iteration": 1})
    return values


def tune_spec(**fields: Any) -> TuneSpec:
    space = {"train.learning_rate": Uniform(space="uniform", lower=0.0, upper=1.0)}
    return TuneSpec.model_validate({"parameters": space, "search_alg": "optuna", **fields})


def test_optuna_is_seeded_and_learns() -> None:
    values = drawn(make_searcher(tune_spec(num_samples=20)), 20)
    assert values == drawn(make_searcher(tune_spec(num_samples=20)), 20)
    assert values != drawn(make_searcher(tune_spec(num_samples=20, seed=1)), 20)
    assert sum(values[10:]) < sum(values[:10])


def test_optuna_takes_up_finished_trials_first_and_draws_others_after() -> None:
    first = drawn(make_searcher(tune_spec()), 2)
    finished = [
        TrialRecord(trial=f"trial-{n}", parameters={"train.learning_rate": v}, status="finished", steps=1, seconds=1.0)
        for n, v in enumerate(first)
    ]
    values = drawn(make_searcher(tune_spec(), finished), 4)
    assert values[:2] == first
    assert not set(values[2:]) & set(first)


def test_optuna_has_so_many_trials_at_a_time() -> None:
    searcher = make_searcher(tune_spec(), max_concurrent=1)
    (rate,) = drawn(searcher, 1)
    assert 0.0 <= rate <= 1.0
    assert searcher.suggest("one") is not None
    assert searcher.suggest("two") is None


@pytest.mark.parametrize("kind", ["random", "grid"])
def test_random_and_grid_search_have_so_many_trials_at_a_time(kind: str) -> None:
    from ray import tune

    tune.register_trainable("objective", lambda config: config)
    generator = make_searcher(tune_spec(search_alg=kind), max_concurrent=1)
    generator.add_configurations({"n": {"run": "objective", "config": {"x": tune.grid_search([1, 2, 3])}}})
    first = generator.next_trial()
    assert first is not None
    assert generator.next_trial() is None
    generator.on_trial_complete(first.trial_id)
    assert generator.next_trial() is not None


def test_schedulers_are_what_the_spec_names() -> None:
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    objective = Objective("eval_loss", "minimize")
    assert isinstance(make_scheduler(tune_spec(), objective), ASHAScheduler)
    assert type(make_scheduler(tune_spec(scheduler="none"), objective)) is FIFOScheduler
