"""The data stage: sources to token sequences, with the tokenizer and the facts about them."""

from __future__ import annotations

import logging
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from fastserve_ray.data.arrow_file import in_groups, write_tables
from fastserve_ray.data.bad_rows import REPORT_FILE, BadRows
from fastserve_ray.data.chat import contents
from fastserve_ray.data.dataset import TOKENIZER_FOLDER, TRAIN_FILE, VALIDATION_FILE, DatasetInfo, write_info
from fastserve_ray.data.encode import Encoder
from fastserve_ray.data.gathered import Split, gather_splits
from fastserve_ray.data.labels import LabelMap, make_label_map
from fastserve_ray.data.masked import is_paired, masked_tables
from fastserve_ray.data.meter import Meter
from fastserve_ray.data.packing import WholePacker, chat_table, pack, packed_table, plain_texts, ragged
from fastserve_ray.data.tokenizer import make_tokenizer
from fastserve_ray.errors import DataError
from fastserve_ray.events.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from fastserve_ray.data.chat import Chat
    from fastserve_ray.data.values import RawRows
    from fastserve_ray.spec import RunSpec

logger = logging.getLogger(__name__)


def prepare_dataset(
    spec: RunSpec, folder: Path, progress: Progress = silent, warn: Callable[[str], None] = logger.warning
) -> DatasetInfo:
    """Write a prepared dataset into ``folder``: train.arrow, validation.arrow, tokenizer/, dataset.json.

    Rows are streams: whatever the size of the data, about a chunk of it is in memory. ``folder`` needs room for the
    texts beside the tokens while this runs.

    Text generation: documents, each ended by eos, are packed into ``input_ids`` of ``data.max_length``; ``lengths``
    says where they begin, and the last row of each table may be shorter (see ``packing.Packer``). Validation rows also
    have ``text``, for golden prompts.
    Conversations are packed whole, and ``answers`` says what is trained (see ``packing.WholePacker``).
    Masked LM: rows of sentences, alone or in pairs, with what masking needs to know (see ``masked``).
    Text classification: ``input_ids`` cut to ``data.max_length`` with the tokenizer's special tokens, ``label`` (the
    class id) and ``text``. The same input gives the same bytes.

    Args:
        spec: ``model.base`` is a hub id or a local folder.
        warn: told about rows that were left out, which ``bad_rows.jsonl`` then names.

    Raises:
        DataError: the data cannot be read or used.
        ModelError: the tokenizer cannot be loaded.
    """
    assert spec.data is not None, "the plan has a data stage only with a data section"
    bad, meter = BadRows(spec.data.on_bad_rows, folder / REPORT_FILE), Meter(progress)
    with tempfile.TemporaryDirectory(prefix=".rows-", dir=folder) as scratch:
        rows = _read(spec, Path(scratch), bad, meter)
        tokenizer = _save_tokenizer(spec, rows.train, folder / TOKENIZER_FOLDER, meter)
        meter.begin("tokenizing")
        work = _Work(spec, tokenizer, rows.count, meter, rows.labels)
        num_train, num_tokens = work.write(rows.train, folder / TRAIN_FILE, "data.train")
        num_validation, _ = work.write(rows.validation, folder / VALIDATION_FILE, "data.validation", with_text=True)
    info = DatasetInfo(
        task=spec.model.task,
        label_names=None if rows.labels is None else rows.labels.names,
        num_train=num_train,
        num_validation=num_validation,
        max_length=spec.data.max_length,
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        num_tokens=num_tokens,
        skipped_rows=rows.num_empty + work.num_unanswered,
        cut_rows=work.num_cut,
        bad_rows=bad.num_rows,
        bad_files=bad.num_files,
    )
    write_info(folder, info)
    _warn_about_losses(warn, bad, work, rows.count)
    return info


@dataclass(frozen=True)
class _Rows:
    """What was read, in scratch files."""

    train: Split
    validation: Split
    labels: LabelMap | None
    """Of a classifier, from its training rows."""

    @property
    def count(self) -> int:
        return len(self.train) + len(self.validation)

    @property
    def num_empty(self) -> int:
        """Rows without text; a validation split that is held out comes from the same rows."""
        is_held_out = self.validation.rows is self.train.rows
        return self.train.rows.num_empty + (0 if is_held_out else self.validation.rows.num_empty)


def _read(spec: RunSpec, scratch: Path, bad: BadRows, meter: Meter) -> _Rows:
    assert spec.data is not None
    meter.begin("reading")
    is_classified = spec.model.task == "text-classification"
    train, validation = gather_splits(spec.data, scratch, bad, meter, with_labels=is_classified)
    if not is_classified:
        return _Rows(train, validation, None)
    labels = make_label_map(train.distinct_labels(), train.rows.label_names, spec.model.num_labels)
    return _Rows(train, validation, labels)


def _save_tokenizer(spec: RunSpec, train: Split, folder: Path, meter: Meter) -> Any:
    """Loaded, or learned from the training rows."""
    assert spec.data is not None
    meter.begin("making the tokenizer")
    is_chat = bool(spec.data.columns.chat)
    texts = (contents(rows.texts) if is_chat else rows.texts for rows in train.chunks())
    tokenizer = make_tokenizer(spec.model, texts, train.rows.num_bytes)
    tokenizer.save_pretrained(folder)
    return tokenizer


def _warn_about_losses(warn: Callable[[str], None], bad: BadRows, work: _Work, count: int) -> None:
    if not bad.is_empty:
        warn(f"{bad.headline()} and were left out: {bad.listing()}; all of them: {REPORT_FILE} in the artifact")
    if work.num_cut:
        warn(
            f"{work.num_cut} of {count} conversations are longer than data.max_length ({work.max_length}): "
            f"they were cut, and {work.num_unanswered} without an answer left out"
        )


class _Work:
    """Rows to token sequences on disk, with about a batch in memory."""

    def __init__(self, spec: RunSpec, tokenizer: Any, total: int, meter: Meter, labels: LabelMap | None) -> None:
        assert spec.data is not None
        self._spec = spec
        self._data = spec.data
        self._encoder = Encoder(tokenizer, total, meter)
        self._total = total
        self._num_documents = 0
        self._meter = meter
        self._labels = labels
        self.max_length = spec.data.max_length
        self._packers: list[WholePacker] = []

    @property
    def num_unanswered(self) -> int:
        """Conversations that were left out, because no answer lies within ``max_length``."""
        return sum(packer.num_skipped for packer in self._packers)

    @property
    def num_cut(self) -> int:
        """Conversations that are longer than a row."""
        return sum(packer.num_cut for packer in self._packers)

    def write(self, split: Split, path: Path, key: str, *, with_text: bool = False) -> tuple[int, int]:
        """Write a split; the number of rows and of tokens.

        Raises:
            DataError: there is not enough text for a single row, or a label that training rows do not have.
        """
        num_tokens = 0

        def counted(tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
            nonlocal num_tokens
            for table in tables:
                num_tokens += sum(len(chunk.values) for chunk in table["input_ids"].chunks)
                yield table

        num_rows = write_tables(path, counted(self._tables(split, with_text=with_text)))
        if not num_rows:
            raise self._no_rows(len(split), key)
        return num_rows, num_tokens

    def _tables(self, split: Split, *, with_text: bool) -> Iterator[pa.Table]:
        if self._spec.model.task == "masked-lm":
            return self._masked(split)
        if self._labels is not None:
            return self._classified(split)
        tables = self._chats(split) if self._data.columns.chat else self._packed(split)
        return self._with_text(tables) if with_text else tables

    def _no_rows(self, count: int, key: str) -> DataError:
        if not self._data.columns.chat:
            return DataError("there is not enough text for a single row", value=f"{count} documents", key=key)
        return DataError(
            "no conversation has an answer within the first max_length tokens",
            value=f"{count} conversations",
            key=key,
            hint=f"raise data.max_length ({self.max_length})",
        )

    def _classified(self, split: Split) -> Iterator[pa.Table]:
        for group in in_groups(self._labeled(split), lambda row: 4 * len(row[0]) + len(row[2])):
            ids, labels, texts = zip(*group, strict=True)
            yield pa.table(
                {
                    "input_ids": ragged(ids),
                    "label": pa.array(labels, pa.int64()),
                    "text": pa.array(texts, pa.large_string()),
                }
            )

    def _labeled(self, split: Split) -> Iterator[tuple[list[int], int, str]]:
        assert self._labels is not None
        for rows in self._metered(split):
            ids = self._encoder.encode(rows.texts, max_length=self.max_length)
            labels = self._labels.ids(rows.labels).to_pylist()
            yield from zip(ids, labels, rows.texts.to_pylist(), strict=True)

    def _masked(self, split: Split) -> Iterator[pa.Table]:
        def documents() -> Iterator[str]:
            for rows in self._metered(split):
                yield from rows.texts.to_pylist()
                self._num_documents += len(rows)
                self._meter(step=self._num_documents, total=self._total, message="tokenizing")

        yield from masked_tables(
            self._encoder.tokenizer,
            documents(),
            max_length=self.max_length,
            is_paired=is_paired(self._spec),
            seed=self._data.seed,
        )

    def _chats(self, split: Split) -> Iterator[pa.Table]:
        packer = WholePacker(self.max_length)
        self._packers.append(packer)

        def packed() -> Iterator[list[Chat]]:
            for rows in self._metered(split):
                for chat in self._encoder.conversations(rows.texts):
                    yield from packer.add(chat)
            yield from packer.rest()

        for group in in_groups(packed(), lambda row: 4 * sum(len(chat.ids) for chat in row)):
            yield chat_table(group)

    def _packed(self, split: Split) -> Iterator[pa.Table]:
        documents = (ids for rows in self._metered(split) for ids in self._encoder.encode(rows.texts))
        rows = pack(documents, self._encoder.tokenizer.eos_token_id, self.max_length)
        for group in in_groups(rows, lambda row: 4 * sum(len(piece) for piece in row)):
            yield packed_table(group)

    def _with_text(self, tables: Iterator[pa.Table]) -> Iterator[pa.Table]:
        for table in tables:
            texts = plain_texts(self._encoder.tokenizer, table["input_ids"].combine_chunks())
            yield table.append_column("text", texts)

    def _metered(self, split: Split) -> Iterator[RawRows]:
        for rows in split.chunks():
            self._meter.add(len(rows), pc.sum(pc.binary_length(rows.texts)).as_py())
            yield rows
