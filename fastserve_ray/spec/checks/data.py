"""Rules about ``data``, and about which sections need which."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.spec.data import FilesSource, PythonDocsSource
from fastserve_ray.spec.model import NEXT_SENTENCE_TYPES
from fastserve_ray.spec.problems import Finding
from fastserve_ray.spec.words import listing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec


def check_stages(spec: RunSpec) -> Iterator[Finding]:
    """Each section has what it works on."""
    if spec.data is None:
        for section, is_there in (
            ("train", spec.train is not None),
            ("compress", bool(spec.compress)),
            ("verify", bool(spec.verify.max_drop)),
        ):
            if is_there:
                yield Finding((section,), f"`{section}` needs `data`", None, "add a `data` section", uses=(("data",),))
    if spec.tune is not None and spec.train is None:
        yield Finding(("tune",), "`tune` needs `train`", None, "add a `train` section", uses=(("train",),))
    if spec.model.config is not None and spec.train is None:
        yield Finding(
            ("model", "config"), "a model from scratch needs `train`", None, "add a `train` section", uses=(("train",),)
        )
    if spec.data is None and spec.train is None and spec.serve is None and not spec.compress:
        sections = (("data",), ("train",), ("serve",), ("compress",))
        yield Finding((), "there is nothing to do", None, "at least one of train, compress and serve", uses=sections)


def check_embedding(spec: RunSpec) -> Iterator[Finding]:
    """An embedding model is served as it is."""
    if spec.model.task != "text-embedding":
        return
    for section in ("data", "train", "tune", "compress"):
        if getattr(spec, section):
            allowed = "model.base and `serve` alone"
            yield Finding((section,), "not for text-embedding", None, allowed, uses=(("model", "task"),))


def check_chat(spec: RunSpec) -> Iterator[Finding]:
    """Conversations: one way to give them, from files that can hold them."""
    if spec.data is None:
        return
    columns, at = spec.data.columns, ("data", "columns")
    pair = {"prompt": columns.prompt, "completion": columns.completion}
    given = [name for name, column in pair.items() if column is not None]
    if len(given) == 1:
        other = "completion" if given == ["prompt"] else "prompt"
        yield Finding((*at, other), f"missing beside `{given[0]}`", None, "both, or neither", uses=((*at, given[0]),))
    if given and columns.messages is not None:
        uses = tuple((*at, name) for name in given)
        yield Finding((*at, "messages"), "prompt and completion are given too", columns.messages, "one way", uses=uses)
    if columns.input is not None and columns.prompt is None:
        yield Finding(
            (*at, "input"), "there is no `prompt` to put it below", columns.input, "with prompt and completion"
        )
    if not columns.chat:
        return
    names = ("messages",) if columns.messages is not None else ("prompt", "completion")
    uses = tuple((*at, name) for name in names)
    if spec.model.task != "text-generation":
        yield Finding(
            uses[0], f"not for {spec.model.task}", columns.chat[0], "text-generation", uses=(("model", "task"),)
        )
    for name in ("train", "validation"):
        source = getattr(spec.data, name)
        if isinstance(source, PythonDocsSource):
            yield Finding(("data", name, "kind"), "this text has no conversations", source.kind, "files", uses=uses)
        if isinstance(source, FilesSource) and format_of(source) == "text":
            allowed = "Parquet, Arrow, JSONL or CSV"
            yield Finding(("data", name, "path"), "plain text has no conversations", source.path, allowed, uses=uses)


def check_next_sentence(spec: RunSpec) -> Iterator[Finding]:
    """Pairs of segments only for a model that learns from them."""
    wanted = None if spec.data is None else spec.data.next_sentence
    at = ("data", "next_sentence")
    if wanted is not None and spec.model.task != "masked-lm":
        yield Finding(at, f"not for {spec.model.task}", str(wanted).lower(), "masked-lm", uses=(("model", "task"),))
    kind = (spec.model.config or {}).get("model_type")
    if wanted and kind is not None and kind not in NEXT_SENTENCE_TYPES:
        allowed = f"false, or a model of type {listing(sorted(NEXT_SENTENCE_TYPES))}"
        uses = (("model", "config", "model_type"),)
        yield Finding(at, f"models of type {kind} have no head for the next sentence", "true", allowed, uses=uses)


def check_data(spec: RunSpec) -> Iterator[Finding]:
    """Rows that the task can use."""
    yield from check_embedding(spec)
    yield from check_chat(spec)
    yield from check_next_sentence(spec)
    if spec.data is None or spec.model.task != "text-classification":
        return
    task = ("model", "task")
    for name in ("train", "validation"):
        source = getattr(spec.data, name)
        if isinstance(source, PythonDocsSource):
            yield Finding(
                ("data", name, "kind"),
                "this text has no labels, which text classification needs",
                source.kind,
                "files with a label column",
                uses=(task,),
            )
        if isinstance(source, FilesSource) and format_of(source) == "text":
            yield Finding(
                ("data", name, "path"),
                "plain text has no label column, which text classification needs",
                source.path,
                "Parquet, Arrow, JSONL or CSV",
                uses=(task, ("data", name, "format")),
            )
    columns = spec.data.columns
    if columns.text == columns.label:
        yield Finding(
            ("data", "columns"),
            "text and label are the same column",
            columns.text,
            "two columns",
            uses=(task, ("data", "columns", "text"), ("data", "columns", "label")),
        )


def format_of(source: FilesSource) -> str | None:
    """The given format, or the one that the file ending says; None when it says nothing."""
    endings = {"parquet": "parquet", "jsonl": "jsonl", "ndjson": "jsonl", "csv": "csv", "txt": "text"}
    return source.format or endings.get(source.path.rpartition(".")[2].lower())
