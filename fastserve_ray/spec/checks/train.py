"""Rules about ``train``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.problems import Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec
    from fastserve_ray.spec.train import TrainSpec, WorkerResources
    from fastserve_ray.spec.yaml_reader import Path


def check_train(spec: RunSpec) -> Iterator[Finding]:
    """Batches that split evenly, evaluations that happen."""
    if spec.train is None:
        return
    yield from _batch(spec.train)
    yield from _fp16(spec.train)
    yield from whole_gpus(spec.train.resources_per_worker, ("train", "resources_per_worker"))
    every, steps = spec.train.eval_every_steps, spec.train.max_steps
    if every is not None and steps is not None and every > steps:
        yield Finding(
            ("train", "eval_every_steps"),
            f"greater than train.max_steps ({steps}), so it would never happen",
            str(every),
            f"at most {steps}, or leave it out: the end is always evaluated",
            uses=(("train", "max_steps"),),
        )


def whole_gpus(resources: WorkerResources, path: Path) -> Iterator[Finding]:
    """Ray gives out a part of one GPU, or several whole ones."""
    if resources.GPU > 1 and not float(resources.GPU).is_integer():
        yield Finding((*path, "GPU"), "not a whole number", str(resources.GPU), "a part of one GPU, or a whole number")


def _fp16(train: TrainSpec) -> Iterator[Finding]:
    """Kernels in fp16 are those of GPUs; the scale of the loss is one for whole weights."""
    path: Path = ("train", "precision")
    if train.precision != "fp16":
        return
    if train.resources_per_worker.GPU == 0:
        uses: tuple[Path, ...] = (("train", "resources_per_worker", "GPU"),)
        yield Finding(path, "needs a GPU", "fp16", "fp32 or bf16, or resources_per_worker: {GPU: 1}", uses=uses)
    for name in ("tensor", "pipeline"):
        if getattr(train.parallel, name) > 1:
            ways: Path = ("train", "parallel", name)
            yield Finding(path, f"does not go with parallel.{name}", "fp16", "bf16 or fp32", uses=(ways,))


def _batch(train: TrainSpec) -> Iterator[Finding]:
    if train.micro_batch_size is not None:
        yield from _micro_batch(train)
        return
    workers, accumulation = train.parallel.workers, train.gradient_accumulation_steps
    parts = workers * accumulation
    if train.batch_size % parts == 0:
        return
    lower = train.batch_size // parts * parts
    choices = f"{lower} or {lower + parts}" if lower else f"{parts}"
    yield Finding(
        ("train", "batch_size"),
        f"not divisible by parallel.workers x gradient_accumulation_steps ({workers} x {accumulation} = {parts})",
        str(train.batch_size),
        f"a multiple of {parts}, such as {choices}",
        uses=(("train", "parallel", "workers"), ("train", "gradient_accumulation_steps")),
    )


def _micro_batch(train: TrainSpec) -> Iterator[Finding]:
    """``micro_batch_size`` says how a batch is cut, and nothing else does."""
    path: Path = ("train", "micro_batch_size")
    if train.gradient_accumulation_steps > 1:
        yield Finding(
            path,
            f"gradient_accumulation_steps ({train.gradient_accumulation_steps}) says already how a batch is cut",
            str(train.micro_batch_size),
            "one of the two",
            uses=(("train", "gradient_accumulation_steps"),),
        )
        return
    share, rest = divmod(train.batch_size, train.parallel.workers)
    uses: tuple[Path, ...] = (("train", "batch_size"), ("train", "parallel", "workers"))
    if rest:
        yield Finding(
            ("train", "batch_size"),
            f"not divisible by parallel.workers ({train.parallel.workers})",
            str(train.batch_size),
            f"a multiple of {train.parallel.workers}",
            uses=uses[1:],
        )
    elif isinstance(train.micro_batch_size, int) and share % train.micro_batch_size:
        divisors = ", ".join(str(rows) for rows in range(1, share + 1) if share % rows == 0)
        yield Finding(
            path,
            f"does not divide a worker's share of a batch ({share})",
            str(train.micro_batch_size),
            divisors,
            uses=uses,
        )
