"""``ParallelTrainer``: any torch model, trained data-parallel by Ray Train actors."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import UsageError
from fastserve_ray.sdk.handles import module_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec import ClusterSpec, TrainSpec
    from fastserve_ray.training.modules import IndexedDataset

RUN_ID = "parallel-trainer"
STAGE = "train"


@dataclass(frozen=True)
class WorkerConfig:
    """What a worker gets; the module and the dataset come through the object store, once a node."""

    job: Any
    """Reference to a ``ModuleJob``."""
    storage_uri: str


class ParallelTrainer:
    """Data-parallel training with AdamW.

    Args:
        model: what ``load_model`` returned, or any torch module; its weights are replaced by the trained ones.
        dataset: indexable with a length. Items are mappings of tensors that the model takes by name, with ``labels``
            (as in transformers), or pairs of an input and a target.
        batch_size: rows of one optimizer step over all workers.
        num_epochs: passes over the dataset.
        num_workers: Ray Train actors; each takes a share of every batch.
        loss: mean loss of output and target, for datasets of pairs. Default: cross-entropy for whole-number targets,
            the squared error otherwise.
        collate: items to a batch; default: torch's ``default_collate``.
        settings: further keys of ``train`` in the YAML, such as ``lr_scheduler_type``.
    """

    def __init__(
        self,
        model: Any,
        dataset: IndexedDataset,
        batch_size: int,
        num_epochs: float,
        num_workers: int = 1,
        *,
        learning_rate: float = 5e-5,
        loss: Callable[[Any, Any], Any] | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        seed: int = 0,
        cluster: ClusterSpec | None = None,
        **settings: Any,
    ) -> None:
        module_of(model)
        self.model = model
        self._dataset = dataset
        self._loss, self._collate = loss, collate
        self._train = _train_spec(
            batch_size=batch_size,
            num_epochs=float(num_epochs),
            parallel={"workers": num_workers},
            learning_rate=learning_rate,
            seed=seed,
            **settings,
        )
        self._cluster = cluster
        self.losses: list[float] = []
        """Mean loss of every optimizer step of the last ``train``."""

    def train(self) -> Any:
        """Train, and return the model with the trained weights (the one that was given, changed in place).

        Uses the Ray that this process is connected to, or an embedded one for the time of the call.

        Raises:
            DataError: the dataset is empty or its items are of another form.
            TrainingError: the loss is no longer a number, or workers were lost.
        """
        from fastserve_ray.run.ray_runtime import RayRuntime
        from fastserve_ray.spec import ClusterSpec

        runtime = RayRuntime(self._cluster or ClusterSpec())
        try:
            runtime.start()
            with tempfile.TemporaryDirectory(prefix="fastserve-trainer-") as folder:
                result = self._run(Path(folder))
        finally:
            runtime.stop(keep_logs=False)
        self.losses = result.losses
        module_of(self.model).load_state_dict(result.state_dict)
        return self.model

    def _run(self, folder: Path) -> Any:
        import ray

        from fastserve_ray.events.log import EventReader
        from fastserve_ray.run.progress import POLL_SECONDS, ProgressThread, renderer_for
        from fastserve_ray.training.launch import run_trainer
        from fastserve_ray.training.modules import ModuleJob

        job = ModuleJob(module_of(self.model), self._dataset, self._train, self._loss, self._collate)
        config = WorkerConfig(ray.put(job), str(folder))
        reader = EventReader(str(folder), RUN_ID)
        with ProgressThread(reader, renderer_for(sys.stdout), poll_seconds=POLL_SECONDS):
            return run_trainer(_trainer(config, self._train, folder), max_failures=0)


def _train_spec(**settings: Any) -> TrainSpec:
    from pydantic import ValidationError

    from fastserve_ray.spec import TrainSpec

    try:
        return TrainSpec.model_validate(settings)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        key = {"parallel.workers": "num_workers"}.get(name, name)
        raise UsageError("this setting cannot be", value=first.get("input"), allowed=first["msg"], key=key) from error


def _trainer(config: WorkerConfig, train: TrainSpec, folder: Path) -> Any:
    from ray.train.v2.api.config import LoggingConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    from fastserve_ray.training.process_group import ProcessGroupConfig

    uses_gpu = train.resources_per_worker.GPU > 0
    return DataParallelTrainer(
        _worker,
        train_loop_config={"config": config},
        backend_config=ProcessGroupConfig(uses_gpu=uses_gpu),
        scaling_config=ScalingConfig(num_workers=train.parallel.workers, use_gpu=uses_gpu),
        run_config=RunConfig(
            name=RUN_ID, storage_path=str(folder / "ray"), logging_config=LoggingConfig(log_level="WARNING")
        ),
    )


def _worker(config: dict[str, WorkerConfig]) -> Any:
    """In every Ray Train worker. An error that a second try would meet again is returned, not raised."""
    import ray
    import torch

    from fastserve_ray.errors import FastServeError
    from fastserve_ray.events.log import EventWriter
    from fastserve_ray.events.progress import EventProgress, silent
    from fastserve_ray.training.modules import train_module
    from fastserve_ray.training.world import World

    given = config["config"]
    context: Any = ray.train.get_context()
    torch.set_num_threads(1)
    job = ray.get(given.job)
    world = World(context.get_world_rank(), context.get_world_size(), "cpu")
    if job.train.resources_per_worker.GPU > 0:
        world = replace(world, device=str(ray.train.torch.get_device()))
    with EventWriter(given.storage_uri, RUN_ID, f"rank{world.rank}") as events:
        progress = EventProgress(events, STAGE) if world.is_first else silent
        if world.is_first:
            events.emit("stage_started", STAGE)
        try:
            result = train_module(job, world, progress)
        except FastServeError as error:
            return error
        if world.is_first:
            events.emit("stage_finished", STAGE, artifact=None, seconds=0.0, metrics={"train_loss": result.losses[-1]})
        return result if world.is_first else None
