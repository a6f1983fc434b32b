"""What training on Ray Train costs beside plain processes: seconds of a steady step, ours by theirs.

The same model, rows, optimizer and DeepSpeed settings, two workers with one thread each: through our loop in Ray Train
actors, and through a loop written by hand under ``torchrun`` (benchmarks/plain_train.py), with DDP and with DeepSpeed
ZeRO-2. The two live at the same time and take turns of some seconds: the workers of the one are stopped (SIGSTOP) while
those of the other train, so that a drift of the machine hits both alike. A round's figure is the median of its last
steps, most of which no change of turns fell into; the table's ratio is the median of the rounds' own ratios, since the
machine drifts more from round to round than within one.

    python -m benchmarks.train_overhead [--quick] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.common import Figure, make_parser, report
from benchmarks.plan_memory import Case, llama, write_dataset
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.spec import ClusterSpec, ModelSpec, TrainSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.speed import RECENT_STEPS
from fastserve_ray.training.work import Work

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.training.job import TrainJob

CASE = Case("llama", llama(256, 4, 2000), length=128, micro_batch=8)
WORKERS = 2
GOAL = 1.05
TURN_SECONDS = 4.0
RAY_WORKER = "ray::RayTrainWorker"


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


def start_plain(folder: Path, job: TrainJob) -> subprocess.Popen[str]:
    path = folder / "job.pickle"
    path.write_bytes(pickle.dumps(job))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={WORKERS}"),
            *("-m", "benchmarks.plain_train", str(path)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome_of(process: subprocess.Popen[str]) -> float:
    """Median seconds of a step under torchrun."""
    out, errors = process.communicate()
    if process.returncode:
        raise SystemExit(errors[-4000:])
    seconds: list[float] = json.loads(next(line for line in out.splitlines() if line.startswith("[")))
    return statistics.median(seconds[-RECENT_STEPS:])


def side_by_side(storage: str, root: Path, dataset: str, train: TrainSpec) -> tuple[float, float]:
    """Ours and the plain loop's median seconds of a step."""
    from fastserve_ray.training.job import TrainJob

    process = start_plain(root, TrainJob(ModelSpec(config=CASE.config), train, root / "dataset"))
    with ThreadPoolExecutor(2) as pool:
        own, other = pool.submit(ours, storage, dataset, train), pool.submit(outcome_of, process)
        is_ours = True
        while not (own.done() or other.done()):
            take_turn(process.pid, is_ours=is_ours)
            wait([own, other], timeout=TURN_SECONDS, return_when=FIRST_COMPLETED)
            is_ours = not is_ours
        signal_all(workers(process.pid), signal.SIGCONT)
        return own.result(), other.result()


def take_turn(plain_id: int, *, is_ours: bool) -> None:
    """Let the workers of one of the two run, and stop the others."""
    everyone = workers(plain_id)
    signal_all({pid: who for pid, who in everyone.items() if (who == "ours") != is_ours}, signal.SIGSTOP)
    signal_all({pid: who for pid, who in everyone.items() if (who == "ours") == is_ours}, signal.SIGCONT)


def workers(plain_id: int) -> dict[int, str]:
    """Which training processes live, and whose they are; none of a torchrun that has ended."""
    plain = (
        {child.pid for child in psutil.Process(plain_id).children(recursive=True)}
        if psutil.pid_exists(plain_id)
        else set()
    )
    found = dict.fromkeys(plain, "plain")
    for child in psutil.Process().children(recursive=True):
        try:
            if child.pid not in plain and child.cmdline()[:1] == [RAY_WORKER]:
                found[child.pid] = "ours"
        except psutil.Error:
            continue
    return found


def signal_all(processes: Iterable[int], number: signal.Signals) -> None:
    for process_id in processes:
        with suppress(ProcessLookupError):
            os.kill(process_id, number)


def publish(storage: str, folder: Path) -> str:
    """Artifact id of the dataset."""
    write_dataset(folder, CASE, rows=512, documents=1)
    published = Registry(Storage.open(storage)).publish(
        folder, kind="dataset", stage="data", digest="0" * 64, parents={}, spec={}, metrics={}, info={}
    )
    return published.id


def measure(root: Path, rounds: int, steps: int) -> list[dict[str, Figure]]:
    from fastserve_ray.run.ray_runtime import RayRuntime

    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 would give way to whatever else runs, torchrun's 0 not
    storage = str(root / "storage")
    Path(storage).mkdir()
    dataset = publish(storage, root / "dataset")
    runtime = RayRuntime(ClusterSpec(num_cpus=WORKERS, include_dashboard=False))
    runtime.start()
    found: dict[tuple[str, str], list[float]] = {}
    try:
        for _ in range(rounds):
            for name, zero in (("DDP", 0), ("ZeRO-2", 2)):
                own, other = side_by_side(storage, root, dataset, spec(zero, steps))
                found.setdefault((name, "ours"), []).append(own)
                found.setdefault((name, "plain"), []).append(other)
                print(f"{name}: {own * 1e3:.1f} ms, plain {other * 1e3:.1f} ms", flush=True)
    finally:
        runtime.stop(keep_logs=False)
    return [row(name, found[name, "ours"], found[name, "plain"]) for name in ("DDP", "ZeRO-2")]


def row(name: str, own: list[float], other: list[float]) -> dict[str, Figure]:
    ratios = [mine / theirs for mine, theirs in zip(own, other, strict=True)]
    return {
        "strategy": name,
        "ours ms": statistics.median(own) * 1e3,
        "plain ms": statistics.median(other) * 1e3,
        "ours / plain": statistics.median(ratios),
        "lowest round": min(ratios),
        "highest round": max(ratios),
        "goal": GOAL,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    rounds, steps = (1, 40) if arguments.quick else (arguments.rounds, 60)
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        rows: list[Any] = measure(Path(folder), rounds, steps)
    report(f"step time, {WORKERS} workers with one thread each", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
