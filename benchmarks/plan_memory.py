"""The memory estimate of ``plan`` against the measured peak of real training steps, one worker.

"peak" is the most that torch's allocator had handed out at once (on a CPU from the profiler's allocation events, on a
GPU ``torch.cuda.max_memory_allocated``): that is what the estimate speaks of. "rss" is the growth of the process's
resident memory over the same time. It holds what libraries allocate for themselves and what the C library keeps
after it was freed, so it is shown and not compared.

    python -m benchmarks.plan_memory [--quick] [--json FILE]
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report

if TYPE_CHECKING:
    from collections.abc import Iterator

MIB = 2**20
STEPS = 3
"""The second step is the first with a whole optimizer state."""


@dataclass(frozen=True)
class Case:
    """One model and how to train it."""

    name: str
    config: dict[str, Any]
    length: int
    micro_batch: int
    train: dict[str, Any] = field(default_factory=dict)
    accumulation: int = 1

    @property
    def task(self) -> str:
        return "text-classification" if self.config["model_type"] == "bert" else "text-generation"

    @property
    def num_workers(self) -> int:
        return int(self.train.get("parallel", {}).get("workers", 1))

    def spec(self) -> dict[str, Any]:
        """As in a file."""
        return {
            "name": "memory",
            "model": {
                "task": self.task,
                "config": self.config,
                "tokenizer": {"kind": "bpe", "vocab_size": self.config["vocab_size"]},
                "num_labels": 2 if self.task == "text-classification" else None,
            },
            "data": {"train": {"path": "rows.jsonl"}, "max_length": self.length},
            "train": {
                "max_steps": STEPS,
                "batch_size": self.micro_batch * self.accumulation * self.num_workers,
                "gradient_accumulation_steps": self.accumulation,
                **self.train,
            },
        }


def gpt2(hidden: int, layers: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    sizes = {"n_embd": hidden, "n_layer": layers, "n_head": hidden // 64, "n_positions": 512, "vocab_size": vocabulary}
    return {"model_type": "gpt2", **sizes, **more}


def llama(hidden: int, layers: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": hidden * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "num_key_value_heads": max(1, hidden // 128),
        "max_position_embeddings": 512,
        "vocab_size": vocabulary,
        **more,
    }


def bert(hidden: int, layers: int, vocabulary: int, **more: Any) -> dict[str, Any]:
    return {
        "model_type": "bert",
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // 64,
        "vocab_size": vocabulary,
        **more,
    }


NO_DROPOUT = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LORA = {"adapter": {"kind": "lora"}}
SAVING = {"gradient_checkpointing": True}
CASES = (
    Case("gpt2, no dropout", gpt2(256, 4, 2000, **NO_DROPOUT), 128, 8),
    Case("gpt2, dropout", gpt2(256, 4, 2000), 128, 8),
    Case("gpt2, large vocabulary", gpt2(128, 2, 20000), 64, 4),
    Case("gpt2, checkpointing", gpt2(256, 6, 2000), 128, 8, SAVING),
    Case("gpt2, checkpointing, long", gpt2(256, 6, 512, **NO_DROPOUT), 256, 8, SAVING),
    Case("llama", llama(256, 4, 2000), 128, 8),
    Case("llama, deep and narrow", llama(128, 10, 512), 256, 4),
    Case("llama, accumulation", llama(384, 4, 4000), 64, 4, {}, 2),
    Case("llama, checkpointing", llama(256, 8, 2000), 128, 8, SAVING),
    Case("llama, checkpointing, tied", llama(256, 8, 512, tie_word_embeddings=True), 256, 8, SAVING),
    Case("bert", bert(256, 4, 2000), 128, 16),
    Case("bert, short", bert(384, 4, 8000), 32, 8),
    Case("bert, no dropout", bert(256, 6, 2000, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0), 128, 8),
    Case("bert, checkpointing", bert(256, 8, 2000), 128, 16, SAVING),
    Case("gpt2, LoRA", gpt2(256, 6, 2000, **NO_DROPOUT), 128, 8, LORA),
    Case("llama, LoRA", llama(256, 6, 2000), 128, 8, LORA),
    Case("bert, LoRA", bert(256, 6, 2000), 128, 8, LORA),
    Case("gpt2, wide, LoRA", gpt2(512, 4, 2000, **NO_DROPOUT), 64, 2, LORA),
    Case("llama, bf16", llama(256, 4, 2000), 128, 8, {"precision": "bf16"}),
    Case("gpt2, bf16", gpt2(256, 4, 2000, **NO_DROPOUT), 128, 8, {"precision": "bf16"}),
    Case("bert, bf16", bert(256, 4, 2000), 128, 8, {"precision": "bf16"}),
    Case("llama, bf16, checkpointing", llama(256, 8, 2000), 128, 8, {"precision": "bf16", **SAVING}),
)


def estimate(case: Case, *, on_gpu: bool = False) -> int:
    """Bytes of the plan for the worker."""
    from fastserve_ray.plan.memory import estimate_memory
    from fastserve_ray.spec.load import spec_from_dict

    spec = case.spec()
    if on_gpu:
        spec["train"]["resources_per_worker"] = {"GPU": 1}
    (memory,) = estimate_memory(spec_from_dict(spec))
    assert memory.peak is not None
    return memory.peak


def measure(case: Case, folder: Path) -> dict[str, int]:
    """``peak`` and ``rss`` (bytes) of a few real steps in this process, from before the model is built."""
    import torch

    from fastserve_ray.spec.load import spec_from_dict
    from fastserve_ray.training.job import TrainJob
    from fastserve_ray.training.loop import TrainingLoop
    from fastserve_ray.training.world import World

    spec = spec_from_dict(case.spec())
    assert spec.train is not None
    dataset = write_dataset(folder, case, rows=spec.train.batch_size)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    job = TrainJob(spec.model, spec.train, dataset)
    before = resident_bytes()
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        TrainingLoop(job, World(device=device)).run()
        peak = torch.cuda.max_memory_allocated() - start
    else:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with torch.profiler.profile(activities=activities, profile_memory=True) as profiler:
            TrainingLoop(job, World()).run()
        peak = allocated_peak(profiler)
    gc.collect()
    return {"peak": peak, "rss": peak_resident_bytes() - before}


def allocated_peak(profiler: Any) -> int:
    """The highest sum of what was allocated and not yet freed, from the profiler's events in their order.

    What a thread of gloo frees, the profiler does not see: it counts as freed where its address is given out again.
    """
    held: dict[int, int] = {}
    current = highest = 0
    for _, nbytes, address in sorted(_allocations(profiler)):
        current -= held.pop(address, 0)
        if nbytes > 0:
            held[address] = nbytes
            current += nbytes
        highest = max(highest, current)
    return highest


def _allocations(profiler: Any) -> Iterator[tuple[int, int, int]]:
    """Nanosecond, bytes (negative where freed), address."""
    waiting = list(profiler.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting.extend(event.children)
        if event.tag.name == "Allocation":
            yield event.start_time_ns, event.extra_fields.alloc_size, event.extra_fields.ptr


def resident_bytes() -> int:
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    """A line of /proc/self/status, which counts in KiB; 0 where there is none."""
    path = Path("/proc/self/status")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


def write_dataset(folder: Path, case: Case, *, rows: int, documents: int = 2) -> Path:
    """Rows of random tokens: ``documents`` in each for generation; for a classifier the first row is padded."""
    import numpy as np
    import pyarrow as pa
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from fastserve_ray.data.dataset import DatasetInfo, write_prepared

    vocabulary = int(case.config["vocab_size"])
    words = {"<pad>": 0, "<eos>": 1, "<unk>": 2} | {f"w{index}": index for index in range(3, vocabulary)}
    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<unk>")),
        pad_token="<pad>",
        eos_token="<eos>",
        bos_token="<eos>",
        unk_token="<unk>",
    ).save_pretrained(folder / "tokenizer")
    ids = np.random.default_rng(0).integers(3, vocabulary, (rows, case.length)).tolist()
    is_classifier = case.task == "text-classification"
    if is_classifier:
        ids[0].pop()
    lengths = [[len(part) for part in np.array_split(np.arange(case.length), documents)]] * rows
    columns = {"input_ids": pa.array(ids, pa.list_(pa.int32())), "text": ["-"] * rows}
    if is_classifier:
        columns["label"] = pa.array([index % 2 for index in range(rows)], pa.int64())
    else:
        columns["lengths"] = pa.array(lengths, pa.list_(pa.int32()))
    table = pa.table(columns)
    info = DatasetInfo(
        task=case.task,
        label_names=("no", "yes") if is_classifier else None,
        num_train=rows,
        num_validation=1,
        max_length=case.length,
        pad_token_id=0,
        vocab_size=vocabulary,
        num_tokens=rows * case.length,
    )
    write_prepared(folder, info, table, table.slice(0, 1))
    return folder


def measure_in_process(case: Case) -> dict[str, int]:
    """``measure`` in a process of its own, so that nothing of another case is resident."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plan_memory", "--one", json.dumps(asdict(case))],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    figures: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return figures


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--one", help="measure this case (JSON) in this process")
    arguments = parser.parse_args()
    if arguments.one:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(Case(**json.loads(arguments.one)), Path(folder))))
        return
    rows: list[dict[str, Figure]] = []
    for case in CASES[::4] if arguments.quick else CASES:
        found, estimated = measure_in_process(case), estimate(case)
        rows.append(
            {
                "model": case.name,
                "batch": f"{case.micro_batch} x {case.length}",
                "estimate MiB": estimated / MIB,
                "peak MiB": found["peak"] / MIB,
                "estimate / peak": estimated / found["peak"],
                "rss MiB": found["rss"] / MIB,
            }
        )
    report("memory of one worker: estimate and measured peak", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
