"""The data stage: sources to token sequences, with the tokenizer and the facts about them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fastserve_ray.data.chat import contents
from fastserve_ray.data.dataset import TOKENIZER_FOLDER, DatasetInfo, write_prepared
from fastserve_ray.data.encode import Encoder
from fastserve_ray.data.labels import LabelMap, make_label_map
from fastserve_ray.data.masked import is_paired, masked_tables
from fastserve_ray.data.packing import WholePacker, chat_table, pack, packed_table, plain_texts, ragged
from fastserve_ray.data.sources import RawRows, read_rows
from fastserve_ray.data.split import held_out
from fastserve_ray.data.tokenizer import make_tokenizer
from fastserve_ray.errors import DataError
from fastserve_ray.events.progress import Progress, silent
from fastserve_ray.spec.data import HeldOut

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.spec import DataSpec, RunSpec


def prepare_dataset(spec: RunSpec, folder: Path, progress: Progress = silent) -> DatasetInfo:
    """Write a prepared dataset into ``folder``: train.parquet, validation.parquet, tokenizer/, dataset.json.

    Text generation: documents, each ended by eos, are packed into ``input_ids`` of ``data.max_length``; ``lengths``
    says where they begin, and the last row of each table may be shorter (see ``packing.Packer``). Validation rows also
    have ``text``, for golden prompts.
    Conversations are packed whole, and ``answers`` says what is trained (see ``packing.WholePacker``).
    Masked LM: rows of sentences, alone or in pairs, with what masking needs to know (see ``masked``).
    Text classification: ``input_ids`` cut to ``data.max_length`` with the tokenizer's special tokens, ``label`` (the
    class id) and ``text``. The same input gives the same bytes.

    Args:
        spec: ``model.base`` is a hub id or a local folder.

    Raises:
        DataError: the data cannot be read or used.
        ModelError: the tokenizer cannot be loaded.
    """
    assert spec.data is not None, "the plan has a data stage only with a data section"
    progress(step=0, total=None, message="reading")
    train, validation = read_splits(spec.data, with_labels=spec.model.task == "text-classification")
    labels = None if train.labels is None else make_label_map(train, spec.model.num_labels)
    progress(step=0, total=None, message="making the tokenizer")
    is_chat = bool(spec.data.columns.chat)
    tokenizer = make_tokenizer(spec.model, contents(train.texts) if is_chat else train.texts)
    tokenizer.save_pretrained(folder / TOKENIZER_FOLDER)
    encoder, length = Encoder(tokenizer, len(train) + len(validation), progress), spec.data.max_length
    if spec.model.task == "masked-lm":
        splits = ((train, "data.train"), (validation, "data.validation"))
        tables = [_masked(spec, tokenizer, rows, key) for rows, key in splits]
    elif labels is not None:
        tables = [_classified(encoder, rows, labels, length) for rows in (train, validation)]
    else:
        pack_rows = _chats if is_chat else _packed
        packed = tuple(
            pack_rows(encoder, rows, length, key)
            for rows, key in ((train, "data.train"), (validation, "data.validation"))
        )
        texts = plain_texts(tokenizer, packed[1]["input_ids"].combine_chunks())
        tables = [packed[0], packed[1].append_column("text", texts)]
    info = DatasetInfo(
        task=spec.model.task,
        label_names=None if labels is None else labels.names,
        num_train=tables[0].num_rows,
        num_validation=tables[1].num_rows,
        max_length=spec.data.max_length,
        pad_token_id=tokenizer.pad_token_id,
        vocab_size=len(tokenizer),
        num_tokens=sum(len(chunk.values) for chunk in tables[0]["input_ids"].chunks),
        skipped_rows=train.num_skipped + validation.num_skipped,
    )
    write_prepared(folder, info, *tables)
    return info


def read_splits(data: DataSpec, *, with_labels: bool) -> tuple[RawRows, RawRows]:
    """Training and validation rows; a seeded draw of whole documents holds out where validation has no source.

    Raises:
        DataError: the data cannot be read or used.
    """
    rows = read_rows(data.train, data.columns, with_labels=with_labels, key="data.train")
    if not isinstance(data.validation, HeldOut):
        return rows, read_rows(data.validation, data.columns, with_labels=with_labels, key="data.validation")
    train, validation = held_out(len(rows), data.validation.fraction, data.seed)
    return rows.take(train, num_skipped=rows.num_skipped), rows.take(validation)


def _classified(encoder: Encoder, rows: RawRows, labels: LabelMap, max_length: int) -> pa.Table:
    ids = ragged(encoder.encode(rows.texts, max_length=max_length))
    return pa.table({"input_ids": ids, "label": labels.ids(rows), "text": rows.texts})


def _masked(spec: RunSpec, tokenizer: Any, rows: RawRows, key: str) -> pa.Table:
    assert spec.data is not None
    paired = is_paired(spec)
    options: dict[str, Any] = {"max_length": spec.data.max_length, "is_paired": paired, "seed": spec.data.seed}
    tables = list(masked_tables(tokenizer, rows.texts.to_pylist(), **options))
    if not tables:
        raise DataError("there is not enough text for a single row", value=f"{len(rows)} documents", key=key)
    return pa.concat_tables(tables).combine_chunks()


def _chats(encoder: Encoder, rows: RawRows, max_length: int, key: str) -> pa.Table:
    packer = WholePacker(max_length)
    packed = [row for chat in encoder.conversations(rows.texts) for row in packer.add(chat)] + list(packer.rest())
    if not packed:
        raise DataError(
            "no conversation has an answer within the first max_length tokens",
            value=f"{len(rows)} conversations",
            key=key,
            hint=f"raise data.max_length ({max_length})",
        )
    return chat_table(packed)


def _packed(encoder: Encoder, rows: RawRows, max_length: int, key: str) -> pa.Table:
    packed = packed_table(pack(encoder.encode(rows.texts), encoder.tokenizer.eos_token_id, max_length))
    if not packed.num_rows:
        raise DataError("there is not enough text for a single row", value=f"{len(rows)} documents", key=key)
    return packed
