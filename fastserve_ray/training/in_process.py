"""Training in this process: no Ray, no process group. For trials with one worker and for the Python interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec import ParallelSpec, TrainSpec

if TYPE_CHECKING:
    from fastserve_ray.training.hooks import Hooks, TrainResult
    from fastserve_ray.training.job import TrainJob


def train_in_process(
    job: TrainJob, hooks: Hooks | None = None, *, device: str | None = None, num_threads: int | None = None
) -> TrainResult:
    """Run ``job`` on one device.

    Args:
        job: its ``train.parallel`` must be one worker without ZeRO; see ``on_one_worker``.
        device: "cpu" or "cuda"; default: the GPU when there is one.
        num_threads: of torch on the CPU; left as it is when None.

    Raises:
        TrainingError: the loss is no longer a number, or memory ended.
        ModelError, DataError: model or dataset cannot be used.
    """
    import torch

    from fastserve_ray.training.loop import TrainingLoop
    from fastserve_ray.training.world import World

    assert job.train.parallel == ParallelSpec(), "several workers need a process group"
    if num_threads is not None:
        torch.set_num_threads(num_threads)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return TrainingLoop(job, World(device=chosen), hooks).run()


def on_one_worker(train: TrainSpec) -> TrainSpec:
    """The same training on one worker: more accumulation keeps the micro batch, and so the memory, as it was."""
    settings = train.model_dump()
    if train.micro_batch_size is None:
        settings["gradient_accumulation_steps"] = train.gradient_accumulation_steps * train.parallel.workers
    settings["parallel"] = {}
    return TrainSpec.model_validate(settings)
