"""``fastserve predict``: answers for a batch of texts, with the engine alone or from a running server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from fastserve_ray.cli.common import set_option
from fastserve_ray.cli.inputs import read_texts
from fastserve_ray.cli.target import Target, resolve_target
from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pydantic import JsonValue

    from fastserve_ray.engines.protocol import EmbeddingEngine
    from fastserve_ray.spec.model import TaskName

Row = dict[str, "JsonValue"]
URL_BATCH = 64
"""Texts in one request to a server."""


@click.command("predict")
@click.argument("target", required=False)
@click.option("--text", "texts", multiple=True, help="A prompt or sentence; may be repeated.")
@click.option("--input", "source", help=".jsonl, .csv, .parquet or text file (one text a line); - reads lines.")
@click.option("--column", help="Column of the texts.  [default: prompt, text, sentence, input or the only one]")
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write JSON lines to this file.")
@click.option("--url", help="Ask the server at this address instead of loading the model.")
@click.option("--task", help="Task of a model folder or hub id.  [default: what its config says]")
@click.option("--name", help="With --url: the model's name.  [default: the first one served]")
@click.option("--storage", help="Where the artifacts are.  [default: the file's, else ./runs]")
@set_option
@click.option("--max-tokens", type=click.IntRange(min=1), default=64, show_default=True)
@click.option("--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 is greedy.")
@click.option("--seed", type=int)
@click.option("--json", "as_json", is_flag=True, help="Print JSON lines instead of text.")
def command(
    *,
    target: str | None,
    texts: tuple[str, ...],
    source: str | None,
    column: str | None,
    output: Path | None,
    url: str | None,
    task: str | None,
    name: str | None,
    storage: str | None,
    sets: tuple[str, ...],
    max_tokens: int,
    temperature: float,
    seed: int | None,
    as_json: bool,
) -> None:
    """Predict with TARGET (as in ``fastserve serve``), or with --url from a server that runs."""
    if (target is None) == (url is None):
        raise UsageError("give either a TARGET or --url", key="TARGET")
    sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
    inputs = read_texts(texts, source, column)
    if url is not None:
        rows = predict_at(url.rstrip("/"), inputs, sampling, name)
    else:
        assert target is not None, "one of both was given"
        found = resolve_target(target, sets=sets, task=task, storage=storage)
        rows = predict_here(found, inputs, sampling)
    _write(rows, output, as_json=as_json)


def predict_here(target: Target, texts: Sequence[str], sampling: SamplingParams) -> Iterator[Row]:
    """Load the model into its engine and run all texts together, in this process."""
    from fastserve_ray.engines.table import open_engine
    from fastserve_ray.serve.source import ModelSource

    source = ModelSource(target.model, target.spec.storage, target.spec.model.revision)
    engine: Any = open_engine(source.fetch(), target.task, target.serve.engine)
    if target.task == "text-classification":
        yield from _classified(engine, texts)
    elif target.task == "text-embedding":
        yield from _embedded(engine, texts)
    else:
        yield from _completed(engine, texts, sampling)


def _classified(engine: Any, texts: Sequence[str]) -> Iterator[Row]:
    for text, prediction in zip(texts, engine.predict(texts), strict=True):
        probs = dict(zip(engine.labels, prediction.scores, strict=True))
        yield {"input": text, "label": prediction.label, "label_id": prediction.label_id, "probs": probs}


def _embedded(engine: EmbeddingEngine, texts: Sequence[str]) -> Iterator[Row]:
    for text, vector in zip(texts, engine.embed(engine.encode(texts, cuts=True)), strict=True):
        yield {"input": text, "embedding": [*vector.numbers]}


def _completed(engine: Any, texts: Sequence[str], sampling: SamplingParams) -> Iterator[Row]:
    from fastserve_ray.engines.offline import complete_texts

    for text, completion in zip(texts, complete_texts(engine, texts, sampling), strict=True):
        yield {"input": text, "text": completion.text, "finish_reason": completion.finish_reason}


def predict_at(url: str, texts: Sequence[str], sampling: SamplingParams, name: str | None) -> Iterator[Row]:
    """Ask a running server; the endpoint that it refuses for its task is not tried again."""
    from fastserve_ray.serve.client import get, post

    models: list[dict[str, Any]] = get(f"{url}/v1/models")["data"]
    model = name or models[0]["id"]
    task: TaskName = next((card["task"] for card in models if card["id"] == model), "text-generation")
    for start in range(0, len(texts), URL_BATCH):
        batch = list(texts[start : start + URL_BATCH])
        if task == "text-classification":
            for item in post(f"{url}/v1/classify", {"model": model, "input": [*batch]})["data"]:
                yield {"input": batch[item.pop("index")], **item}
            continue
        if task == "text-embedding":
            asked: dict[str, JsonValue] = {"model": model, "input": [*batch], "truncate_prompt_tokens": -1}
            for item in post(f"{url}/v1/embeddings", asked)["data"]:
                yield {"input": batch[item["index"]], "embedding": item["embedding"]}
            continue
        body: dict[str, JsonValue] = {"model": model, "prompt": [*batch], "max_tokens": sampling.max_tokens}
        body |= {"temperature": sampling.temperature, "seed": sampling.seed}
        for choice in post(f"{url}/v1/completions", body)["choices"]:
            text = batch[choice["index"]]
            yield {"input": text, "text": choice["text"], "finish_reason": choice["finish_reason"]}


def _write(rows: Iterator[Row], output: Path | None, *, as_json: bool) -> None:
    if output is not None:
        with output.open("w", encoding="utf-8") as file:
            count = sum(file.write(json.dumps(row, ensure_ascii=False) + "\n") > 0 for row in rows)
        click.echo(f"{count} rows written to {output}", err=True)
        return
    for row in rows:
        click.echo(json.dumps(row, ensure_ascii=False) if as_json else _line(row))


def _line(row: Row) -> str:
    if "label" in row:
        probs = row["probs"]
        assert isinstance(probs, dict), "probabilities by label"
        return f"{row['label']}\t{probs[str(row['label'])]:.3f}\t{row['input']}"
    if "embedding" in row:
        return f"{row['embedding']}\t{row['input']}"
    return f"{row['input']}{row['text']}"
