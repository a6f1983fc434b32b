"""What runs in every Ray Train worker: the loop, with hooks into Ray, events and the registry.

An error that trying again would meet again (a model that does not load, a loss that is no number) is returned, not
raised: Ray restarts workers that raise.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.artifacts.manifest import artifact_id
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.errors import ArtifactError, FastServeError, StorageError
from fastserve_ray.events.log import EventWriter
from fastserve_ray.events.progress import EventProgress, Progress, silent
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.checkpoint.background import BackgroundWriter
from fastserve_ray.training.checkpoint.report import CheckpointReport
from fastserve_ray.training.disk import disk_errors

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.training.balance.policy import Change
    from fastserve_ray.training.board import TrainingBoard
    from fastserve_ray.training.hooks import Hooks, TrainResult
    from fastserve_ray.training.job import TrainJob
    from fastserve_ray.training.loop import TrainingLoop
    from fastserve_ray.training.work import Publication, Work
    from fastserve_ray.training.world import World

ARTIFACT = "artifact:"


def train_worker(config: dict[str, Work]) -> Manifest | FastServeError | dict[str, float] | None:
    """The training function of Ray Train.

    Returns:
        on worker 0: the published artifact, or the metrics where nothing is published; on every worker, the error that
        stopped all of them.
    """
    from fastserve_ray.training.failures import DivergedError

    work = config["work"]
    with ExitStack() as stack:
        world = _world(work)
        events = stack.enter_context(EventWriter(work.storage_uri, work.run_id, f"{work.stage}-rank{world.rank}"))
        registry = Registry(Storage.open(work.storage_uri))
        report = CheckpointReport(registry.storage, events if world.is_first else None, work.stage)
        writer = BackgroundWriter(report)
        hooks = _hooks(work, world, events, stack, writer)
        hooks.progress(step=0, total=None, message="loading model and data")
        loop, error = load(work, registry, world, hooks)
        if loop is None:
            return error
        try:
            result = loop.run()
        except DivergedError as final:
            return final
        writer.close()
        return finish(work, registry, result, hooks.progress) if world.is_first else None


def _world(work: Work) -> World:
    """Imports torch."""
    import ray.train
    import torch

    from fastserve_ray.training.world import World

    context = ray.train.get_context()
    resources = work.train.resources_per_worker
    torch.set_num_threads(max(1, int(resources.CPU)))
    device = "cpu"
    if resources.GPU > 0:
        from ray.train.torch import get_device

        device = str(get_device())
        torch.cuda.set_device(device)
    return World.of(context.get_world_rank(), context.get_world_size(), device, work.train.parallel)


def load(
    work: Work, registry: Registry, world: World, hooks: Hooks
) -> tuple[TrainingLoop | None, FastServeError | None]:
    """All workers load, and then agree: one that cannot would leave the others waiting for it."""
    from fastserve_ray.training.loop import TrainingLoop

    loop, error = None, None
    try:
        loop = TrainingLoop(_job(work, registry), world, hooks)
    except FastServeError as found:
        error = found
    first = world.first_error(error)
    assert first is None or isinstance(first, FastServeError)
    return (loop, None) if first is None else (None, first)


def _job(work: Work, registry: Registry) -> TrainJob:
    from fastserve_ray.training.job import TrainJob

    model = work.model
    if model.base is not None and model.base.startswith(ARTIFACT):
        folder = registry.fetch(model.base.removeprefix(ARTIFACT))
        model = type(model).model_validate({**model.model_dump(), "base": str(folder)})
    return TrainJob(model, work.train, registry.fetch(work.dataset))


def _hooks(work: Work, world: World, events: EventWriter, stack: ExitStack, writer: BackgroundWriter) -> Hooks:
    from fastserve_ray.training.hooks import Hooks

    is_heard = world.is_first and work.publication is not None  # a trial's steps are not those of its stage
    progress: Progress = EventProgress(events, work.stage) if is_heard else silent
    board = _board(work, progress, stack) if is_heard else None
    hooks = Hooks(
        progress=board or progress,
        on_evaluate=_on_evaluate(work, world, events, board),
        on_balance=partial(_on_balance, events, work.stage) if world.is_first else None,
        warn=lambda message: events.emit("warning", work.stage, message=message),
    )
    if work.publication is None:
        return hooks
    return replace(
        hooks,
        on_step=lambda step, loss: writer.check(),
        on_checkpoint=writer,
        resume_from=_checkpoint(work, stack, progress),
    )


def _board(work: Work, progress: Progress, stack: ExitStack) -> TrainingBoard:
    from fastserve_ray.training.board import TrainingBoard

    assert work.publication is not None
    storage = Storage.open(work.storage_uri)
    board = TrainingBoard(storage, artifact_id(work.stage, work.publication.digest), progress)
    return stack.enter_context(closing(board))


def _on_evaluate(
    work: Work, world: World, events: EventWriter, board: TrainingBoard | None
) -> Callable[[int, dict[str, float]], bool]:
    import ray.train

    from fastserve_ray.training.patience import PatienceCounter

    is_enough = None if work.patience is None else PatienceCounter(work.patience)

    def on_evaluate(step: int, metrics: dict[str, float]) -> bool:
        if world.is_first and work.publication is not None:
            events.emit("stage_metrics", work.stage, step=step, metrics=metrics)
        if board is not None:
            board.evaluated(step, metrics)
        if work.reports_evaluations:
            ray.train.report({**metrics, "step": step})
        return is_enough is not None and is_enough(step, metrics)

    return on_evaluate


def _on_balance(events: EventWriter, stage: str, step: int, change: Change) -> None:
    """Says when shares changed and why."""
    events.emit("shares_changed", stage, step=step, **vars(change))


def _checkpoint(work: Work, stack: ExitStack, progress: Progress) -> Path | None:
    """The last checkpoint of this run, of an earlier group of workers or of an earlier driver."""
    import ray.train

    checkpoint: Any = ray.train.get_checkpoint()
    if checkpoint is None and work.resume_from is None:
        return None
    if checkpoint is None:
        storage = Storage.open(work.storage_uri)
        checkpoint = ray.train.Checkpoint(f"{storage.root}/{work.resume_from}", storage.filesystem)
    folder = Path(stack.enter_context(checkpoint.as_directory()))
    progress(step=0, total=None, message=f"going on from {Path(checkpoint.path).name}")
    return folder


def finish(
    work: Work, registry: Registry, result: TrainResult, progress: Progress
) -> Manifest | FastServeError | dict[str, float]:
    if work.publication is None:
        return result.metrics
    progress(step=result.num_steps, total=result.num_steps, message="publishing the model")
    try:
        return _publish(work, work.publication, registry, result)
    except (StorageError, ArtifactError) as final:
        return final


def _publish(work: Work, publication: Publication, registry: Registry, result: TrainResult) -> Manifest:
    with tempfile.TemporaryDirectory(prefix="fastserve-model-") as name:
        folder = Path(name)
        with disk_errors(name):
            result.save(folder)
        return registry.publish(
            folder,
            kind="model",
            stage=work.stage,
            digest=publication.digest,
            parents=publication.parents,
            spec=publication.settings,
            metrics=result.metrics,
            info=_info(work, result),
        )


def _info(work: Work, result: TrainResult) -> dict[str, Any]:
    from fastserve_ray.training.strategies.table import strategy_label

    config: Any = result.model.config
    labels = config.id2label if work.model.task == "text-classification" else None
    parallel = work.train.parallel
    return {
        "task": work.model.task,
        "model_type": config.model_type,
        "num_parameters": num_parameters(result),
        "label_names": None if labels is None else [labels[index] for index in sorted(labels)],
        "strategy": strategy_label(parallel),
        "workers": parallel.workers,
        "num_steps": result.num_steps,
    }


def num_parameters(result: TrainResult) -> int:
    """Weights of the model; tied ones count once."""
    assert result.state_dict is not None
    names = {name for name, _ in result.model.named_parameters()}
    return sum(tensor.numel() for name, tensor in result.state_dict.items() if name in names)
