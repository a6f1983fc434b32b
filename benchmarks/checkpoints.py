"""What checkpoints cost a run: seconds of training with and without them, on two Ray Train workers.

A Llama of 4 million parameters is trained without checkpoints and with one every 20 steps, in turn; what one checkpoint
costs is the difference of the medians over the number of checkpoints. That counts the copy to CPU memory, which steps
wait for, and what the writing thread takes from the steps beside it. From it follows the share of training time that is
lost at the default interval of 200 steps.

    python -m benchmarks.checkpoints [--quick] [--json FILE]
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.balance import write_dataset
from benchmarks.common import Figure, make_parser, report
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.spec import RunSpec
from fastserve_ray.spec.train import CheckpointSpec
from fastserve_ray.storage.filesystem import Storage
from fastserve_ray.training.launch import train_on_ray

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest

WORKERS, EVERY, NEVER = 2, 20, 1_000_000
MODEL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 32,
}


def spec_of(storage: str, *, zero: int, every: int, steps: int) -> RunSpec:
    train = {
        "max_steps": steps,
        "batch_size": 16,
        "logging_steps": 1000,
        "parallel": {"workers": WORKERS, "zero": zero},
        "checkpoint": {"every_steps": every},
    }
    document: dict[str, Any] = {
        "name": "checkpoints",
        "storage": storage,
        "model": {"config": MODEL},
        "data": {"train": {"kind": "python-docs"}},
        "train": train,
    }
    return RunSpec.model_validate(document)


def main() -> None:
    import ray

    options = make_parser(__doc__).parse_args()
    steps, rounds = (60, 1) if options.quick else (200, 3)
    runs: dict[tuple[int, int], list[Manifest]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_dataset(folder / "dataset")
        storage = Storage.open(str(folder / "storage"))
        dataset = Registry(storage).publish(
            folder / "dataset", kind="dataset", stage="data", digest="d" * 64, parents={}, spec={}, metrics={}, info={}
        )
        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        for number in range(rounds):
            for zero in (0, 1):
                for every in (NEVER, EVERY):
                    manifest = train_on_ray(
                        spec_of(storage.uri, zero=zero, every=every, steps=steps),
                        dataset=dataset.id,
                        digest=f"{number}{zero}{every:07d}".ljust(64, "0"),
                        parents={"data": dataset.id},
                        storage_uri=storage.uri,
                        run_id=f"run-{number}-{zero}-{every}",
                    )
                    runs.setdefault((zero, every), []).append(manifest)
        ray.shutdown()
    rows: list[dict[str, Figure]] = []
    for zero in (0, 1):
        without, with_them = (
            statistics.median(run.metrics["seconds"] for run in runs[zero, every]) for every in (NEVER, EVERY)
        )
        waited = statistics.median(run.metrics["checkpoint_seconds"] for run in runs[zero, EVERY])
        num_written = (steps - 1) // EVERY
        cost, step = (with_them - without) / num_written, without / steps
        rows.append(
            {
                "strategy": f"ZeRO-{zero}" if zero else "DDP",
                "MB": round(12 * float(str(runs[zero, EVERY][0].info["num_parameters"])) / 1e6, 1),
                "ms a step": 1000 * step,
                "ms a checkpoint": 1000 * cost,
                "of these waited": 1000 * waited / num_written,
                "lost at every 20 steps, %": round(100 * cost / (EVERY * step), 2),
                "lost at the default, %": round(100 * cost / (CheckpointSpec().every_steps * step), 2),
            }
        )
    report("cost of checkpoints, two workers", rows, json_file=options.json)


if __name__ == "__main__":
    main()
