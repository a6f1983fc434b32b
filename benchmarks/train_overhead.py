"""What training on Ray Train costs beside plain processes: seconds of a steady step, ours by theirs.

The same model, rows, optimizer and DeepSpeed settings, two workers with one thread each: through our loop in Ray Train
actors, and through a loop written by hand under ``torchrun`` (benchmarks/plain_train.py), with DDP and with DeepSpeed
ZeRO-2. The four run in turn, so that a drift of the machine hits all alike. A round's figure is the median of its steps
after the first ten, the table's the median over the rounds.

    python -m benchmarks.train_overhead [--quick] [--json FILE]
"""

from __future__ import annotations

import json
import os
import pickle
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report
from benchmarks.plan_memory import Case, llama, write_dataset
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.spec import ClusterSpec, ModelSpec, TrainSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.work import Work

if TYPE_CHECKING:
    from fastserve_ray.training.job import TrainJob

CASE = Case("llama", llama(256, 4, 2000), length=128, micro_batch=8)
WORKERS = 2
GOAL = 1.05


def spec(zero: int, steps: int) -> TrainSpec:
    return TrainSpec.model_validate(
        {
            "max_steps": steps,
            "batch_size": CASE.micro_batch * WORKERS,
            "learning_rate": 1e-3,
            "parallel": {"workers": WORKERS, "zero": zero},
        }
    )


def ours(storage: str, dataset: str, train: TrainSpec) -> float:
    """Median seconds of a step in Ray Train actors."""
    from fastserve_ray.training.launch import make_trainer, run_trainer

    model = ModelSpec(config=CASE.config)
    work = Work(model=model, train=train, dataset=dataset, storage_uri=storage, run_id="overhead")
    metrics: dict[str, float] = run_trainer(make_trainer(work, name=f"overhead-{os.urandom(4).hex()}"), max_failures=0)
    return metrics["step_seconds"]


def plain(folder: Path, job: TrainJob) -> float:
    """Median seconds of a step under torchrun."""
    path = folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"),
            *("-m", "benchmarks.plain_train", str(path)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    seconds: list[float] = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("[")))
    return statistics.median(seconds[len(seconds) // 4 :])


def publish(storage: str, folder: Path) -> str:
    """Artifact id of the dataset."""
    write_dataset(folder, CASE, rows=512, documents=1)
    published = Registry(Storage.open(storage)).publish(
        folder, kind="dataset", stage="data", digest="0" * 64, parents={}, spec={}, metrics={}, info={}
    )
    return published.id


def measure(root: Path, rounds: int, steps: int) -> list[dict[str, Figure]]:
    from fastserve_ray.run.ray_runtime import RayRuntime
    from fastserve_ray.training.job import TrainJob

    storage = str(root / "storage")
    Path(storage).mkdir()
    dataset = publish(storage, root / "dataset")
    runtime = RayRuntime(ClusterSpec(num_cpus=WORKERS, include_dashboard=False))
    runtime.start()
    found: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(rounds):
            for name, zero in (("DDP", 0), ("ZeRO-2", 2)):
                train = spec(zero, steps)
                job = TrainJob(ModelSpec(config=CASE.config), train, root / "dataset")
                found.setdefault((name, "ours"), []).append(ours(storage, dataset, train))
                found.setdefault((name, "plain"), []).append(plain(root, job))
    finally:
        runtime.stop(keep_logs=False)
    return [row(name, found[name, "ours"], found[name, "plain"]) for name in ("DDP", "ZeRO-2")]


def row(name: str, own: list[float], other: list[float]) -> dict[str, Figure]:
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return {
        "strategy": name,
        "ours ms": statistics.median(own) * 1e3,
        "plain ms": statistics.median(other) * 1e3,
        "ours / plain": statistics.median(own) / statistics.median(other),
        "lowest round": min(ratios),
        "highest round": max(ratios),
        "goal": GOAL,
    }


def main() -> None:
    arguments = make_parser(__doc__).parse_args()
    rounds, steps = (1, 24) if arguments.quick else (5, 60)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        rows: list[Any] = measure(Path(folder), rounds, steps)
    report(f"step time, {WORKERS} workers with one thread each", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
