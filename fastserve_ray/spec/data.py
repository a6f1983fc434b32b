"""``data``: where rows come from and which columns mean what."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from fastserve_ray.spec.base import PositiveInt, Section

FileFormat = Literal["parquet", "arrow", "jsonl", "csv", "text"]


class FilesSource(Section):
    """Files on disk or at any pyarrow.fs URI."""

    kind: Literal["files"] = "files"
    path: str
    """A file, a folder or a glob; a local path is relative to the working directory."""
    format: FileFormat | None = None
    """Read from the file ending when left out (.gz, .zst, .bz2, .lz4 and .br are unpacked). ``arrow`` is Arrow's file
    and stream format, and Feather. In plain text blank lines separate documents; a file without any has
    one document on each line."""
    max_rows: PositiveInt | None = None
    """Take only the first rows, for a quick try."""


class PythonDocsSource(Section):
    """English text that every CPython carries: ``pydoc_data.topics`` and the standard library's docstrings."""

    kind: Literal["python-docs"]
    max_rows: PositiveInt | None = None
    """Take only the first documents, for a quick try."""


def _kind_of_source(value: object) -> str | None:
    if isinstance(value, dict):
        return str(value.get("kind", "files"))
    return getattr(value, "kind", None)


DataSource = Annotated[
    Annotated[FilesSource, Tag("files")] | Annotated[PythonDocsSource, Tag("python-docs")],
    Discriminator(_kind_of_source),
]


class HeldOut(Section):
    """A part of the training rows held out by a seeded draw."""

    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1


def _kind_of_validation(value: object) -> str | None:
    if isinstance(value, dict):
        return "files" if {"path", "kind", "format"} & value.keys() else "held-out"
    return "files" if isinstance(value, FilesSource) else "held-out" if isinstance(value, HeldOut) else None


ValidationSource = Annotated[
    Annotated[FilesSource, Tag("files")] | Annotated[HeldOut, Tag("held-out")],
    Discriminator(_kind_of_validation),
]


class Columns(Section):
    """Which column holds what."""

    text: str = "text"
    label: str = "label"
    messages: str | None = None
    """Conversations to fine-tune on: lists of ``{role, content}``, or JSON text of such. Written with the model's chat
    template; only what the assistant says is trained. Packed whole to ``max_length``; of a longer one the start counts.
    """
    prompt: str | None = None
    """With ``completion``: instructions to fine-tune on, each a conversation of two turns; in place of ``messages``."""
    completion: str | None = None
    input: str | None = None
    """With ``prompt``: what the instruction is about, put below it after an empty line where a row has one."""

    @property
    def chat(self) -> tuple[str, ...]:
        """The columns of conversations: messages; or prompt and completion, and perhaps input; or none."""
        if self.messages is not None:
            return (self.messages,)
        if self.prompt is None or self.completion is None:
            return ()
        return (self.prompt, self.completion) if self.input is None else (self.prompt, self.completion, self.input)


class DataSpec(Section):
    """Training rows, held-out rows and how long a sequence may be."""

    train: DataSource
    """The rows to learn from."""
    validation: ValidationSource = HeldOut()
    """Rows of their own, or a fraction held out of ``train``. Quality is measured on these."""
    columns: Columns = Columns()
    max_length: int = Field(default=128, ge=8, le=1_000_000)
    """Tokens in a training sequence: text generation packs documents to this length, classification cuts them,
    masked-lm fills it with sentences of a document."""
    next_sentence: bool | None = None
    """masked-lm: rows are pairs of segments, and whether the second follows the first is learned too; left out: where
    the model has a head for it, as BERT has."""
    seed: int = Field(default=0, ge=0)
    """Decides the held-out rows and the order of the rows."""
    on_bad_rows: Literal["fail", "skip"] = "fail"
    """What becomes of rows that cannot be used (broken JSON, a wrong number of values, no text, bytes that are not
    UTF-8, an unreadable row group): an error that lists them, or they are left out, counted and reported."""
