"""Sentence classification: what ``fastserve run cluster/sentiment.yaml`` publishes against a plain PyTorch loop.

The plain loop uses nothing of this project: transformers' model, torch's AdamW, a linear warm-up and decay. Its
settings are those of cluster/sentiment.yaml. Train and dev files are Parquet with columns ``sentence`` and ``label``.

    python -m benchmarks.sentiment --model MODEL_FOLDER --train train.parquet --dev dev.parquet --storage ./runs

With ``--storage`` the newest train and compress artifacts there stand beside it, and with ``--url`` the served model
too: each dev sentence goes through ``/v1/classify`` and is compared with the engine's offline prediction.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

from benchmarks.common import Figure, make_parser, report
from fastserve_ray.artifacts.registry import Registry
from fastserve_ray.engines.table import open_engine
from fastserve_ray.storage.filesystem import Storage

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest

Rows = list[tuple[str, int]]


def read_rows(path: Path, limit: int | None) -> Rows:
    table = pq.read_table(path, columns=["sentence", "label"])
    return list(zip(table["sentence"].to_pylist(), table["label"].to_pylist(), strict=True))[:limit]


def encode(tokenizer: Any, rows: Rows, max_length: int) -> dict[str, torch.Tensor]:
    batch = tokenizer(
        [text for text, _ in rows], truncation=True, max_length=max_length, padding=True, return_tensors="pt"
    )
    return {**batch, "labels": torch.tensor([label for _, label in rows])}


def accuracy(model: Any, tokenizer: Any, rows: Rows, max_length: int) -> float:
    model.eval()
    correct = 0
    with torch.inference_mode():
        for start in range(0, len(rows), 64):
            batch = encode(tokenizer, rows[start : start + 64], max_length)
            labels = batch.pop("labels")
            correct += int((model(**batch).logits.argmax(-1) == labels).sum())
    return correct / len(rows)


def train_plain(args: Any, train: Rows, dev: Rows) -> dict[str, Figure]:
    """The loop that anybody would write first."""
    torch.manual_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=2)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.learning_rate, weight_decay=0.0)
    total = args.epochs * math.ceil(len(train) / args.batch_size)
    schedule = get_linear_schedule_with_warmup(optimizer, int(0.1 * total), total)
    started = perf_counter()
    step = 0
    for _ in range(args.epochs):
        model.train()
        order = torch.randperm(len(train)).tolist()
        for start in range(0, len(order), args.batch_size):
            batch = encode(
                tokenizer, [train[index] for index in order[start : start + args.batch_size]], args.max_length
            )
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            step += 1
            if step % 25 == 0:
                left = (perf_counter() - started) / step * (total - step)
                print(f"plain loop: step {step}/{total} loss {loss.item():.3f}, {left:.0f} s left", file=sys.stderr)
    seconds = perf_counter() - started
    return {
        "model": "plain PyTorch loop",
        "dev accuracy": accuracy(model, tokenizer, dev, args.max_length),
        "seconds": seconds,
    }


def published(registry: Registry, stage: str) -> Manifest | None:
    found = [manifest for manifest in registry.list() if manifest.stage == stage]
    return max(found, key=lambda manifest: manifest.created, default=None)


def engine_row(name: str, registry: Registry, manifest: Manifest, dev: Rows) -> tuple[dict[str, Figure], list[str]]:
    """Accuracy of an artifact through the engine that serves it, and its labels."""
    engine: Any = open_engine(registry.fetch(manifest.id), "text-classification")
    predictions = engine.predict([text for text, _ in dev])
    right = sum(prediction.label_id == label for prediction, (_, label) in zip(predictions, dev, strict=True))
    row: dict[str, Figure] = {
        "model": name,
        "dev accuracy": right / len(dev),
        "seconds": manifest.metrics.get("seconds"),
        "MB": sum(file.size for file in manifest.files if file.path.endswith(".safetensors")) / 1e6,
    }
    return row, [prediction.label for prediction in predictions]


def served_row(url: str, dev: Rows, offline: list[str]) -> dict[str, Figure]:
    """Accuracy of the endpoint on every dev sentence, and how often it equals the offline engine."""
    labels: list[str] = []
    with httpx.Client(base_url=url, timeout=120) as client:
        model = client.get("/v1/models").raise_for_status().json()["data"][0]["id"]
        for start in range(0, len(dev), 8):
            texts = [text for text, _ in dev[start : start + 8]]
            answer = client.post("/v1/classify", json={"model": model, "input": texts}).raise_for_status().json()
            labels += [item["label"] for item in answer["data"]]
    same = sum(a == b for a, b in zip(labels, offline, strict=True))
    names = sorted(set(offline) | set(labels))
    right = sum(names.index(label) == truth for label, (_, truth) in zip(labels, dev, strict=True))
    return {"model": "served", "dev accuracy": right / len(dev), "equal to offline": f"{same}/{len(dev)}"}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--model", required=True, help="hub id or folder of an encoder")
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--dev", type=Path, required=True)
    parser.add_argument("--storage", help="storage of a finished run, to stand beside the plain loop")
    parser.add_argument("--url", help="endpoint of the served model, to compare with the offline engine")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=5e-5)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--skip-plain", action="store_true", help="leave the plain loop out")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    limit = 320 if args.quick else None
    args.epochs = 1 if args.quick else args.epochs
    train, dev = read_rows(args.train, limit), read_rows(args.dev, None)
    rows = [] if args.skip_plain else [train_plain(args, train, dev)]
    if args.storage:
        registry = Registry(Storage.open(args.storage))
        labels: list[str] = []
        for stage in ("train", "compress"):
            manifest = published(registry, stage)
            if manifest is not None:
                row, labels = engine_row(f"{stage} artifact", registry, manifest, dev)
                rows.append(row)
        if args.url and labels:
            rows.append(served_row(args.url, dev, labels))
    report("Sentence classification on the dev set", rows, json_file=args.json)


if __name__ == "__main__":
    main()
