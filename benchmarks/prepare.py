"""Rows and megabytes a second through the data stage, beside its floor: the tokenizer alone on the same texts.

    python -m benchmarks.prepare --rows 40000 --json prepare.json

Texts are made of words of English-like lengths; the tokenizer is a byte-level BPE of 4096 entries learned from them.
Each line is the median of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fastserve_ray.data.encode import BATCH
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.data.tokenizer import all_cores, train_bpe
from fastserve_ray.spec.load import spec_from_dict

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.spec import RunSpec

WORDS = 20_000
WORDS_IN_A_ROW = 120


def make_texts(count: int) -> list[str]:
    """Rows of words drawn by Zipf's law."""
    random = np.random.default_rng(0)
    letters = [chr(97 + index) for index in range(26)]
    words = ["".join(random.choice(letters, length)) for length in random.integers(2, 10, WORDS)]
    ranks = np.minimum(random.zipf(1.3, (count, WORDS_IN_A_ROW)), WORDS) - 1
    return [" ".join(words[index] for index in row) + "." for row in ranks]


def write_corpus(path: Path, texts: list[str]) -> Path:
    """JSON Lines."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path


def spec_of(tokenizer: Path, corpus: Path) -> RunSpec:
    """Documents packed to 512 tokens."""
    return spec_from_dict(
        {
            "name": "prepare",
            "model": {"config": {"model_type": "llama"}, "tokenizer": str(tokenizer)},
            "data": {"train": {"path": str(corpus)}, "max_length": 512},
            "train": {},
        }
    )


def seconds_of(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def tokenize_alone(tokenizer: Any, texts: list[str]) -> None:
    """The floor: what no preparation can be faster than with these cores."""
    with all_cores():
        for start in range(0, len(texts), BATCH):
            tokenizer(texts[start : start + BATCH], return_attention_mask=False, return_token_type_ids=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=40_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    texts = make_texts(args.rows)
    megabytes = sum(len(text) for text in texts) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        tokenizer = train_bpe([pa.array(texts[:4000], pa.large_string())], 4096, "text-generation")
        tokenizer.save_pretrained(root / "tokenizer")
        spec = spec_of(root / "tokenizer", write_corpus(root / "corpus.jsonl", texts))
        prepare_dataset(spec_of(root / "tokenizer", write_corpus(root / "warm.jsonl", texts[:500])), root)
        found: dict[str, list[float]] = {"tokenizer alone": [], "data stage": []}
        for repeat in range(args.repeats):
            out = root / str(repeat)
            out.mkdir()
            found["tokenizer alone"].append(seconds_of(lambda: tokenize_alone(tokenizer, texts)))
            found["data stage"].append(seconds_of(lambda out=out: prepare_dataset(spec, out)))  # type: ignore[misc]
    report = {}
    for name, seconds in found.items():
        median = statistics.median(seconds)
        report[name] = {"seconds": median, "rows_per_second": args.rows / median, "mb_per_second": megabytes / median}
        print(f"{name:16}  {median:6.2f} s  {args.rows / median:8.0f} rows/s  {megabytes / median:6.2f} MB/s")
    if args.json:
        args.json.write_text(json.dumps({"cores": os.cpu_count(), "rows": args.rows, "results": report}, indent=2))


if __name__ == "__main__":
    main()
