"""Rows of masked language modelling: segments with special tokens, and what masking needs to know of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from fastserve_ray.data.packing import ragged
from fastserve_ray.data.sentences import SegmentMaker
from fastserve_ray.errors import ModelError
from fastserve_ray.spec.model import NEXT_SENTENCE_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastserve_ray.data.sentences import Segments
    from fastserve_ray.spec import RunSpec

BATCH = 256


def is_paired(spec: RunSpec) -> bool:
    """Whether rows have two segments: as the spec says, else where the model has a head for the next sentence.

    Raises:
        ModelError: the spec asks for pairs, and the model has no such head.
    """
    assert spec.data is not None
    wanted = spec.data.next_sentence
    model_type = _model_type(spec)
    has_head = model_type in NEXT_SENTENCE_TYPES
    if wanted and not has_head:
        raise ModelError(
            "the model has no head for the next sentence",
            value=model_type,
            allowed=", ".join(sorted(NEXT_SENTENCE_TYPES)),
            key="data.next_sentence",
            hint="leave it out",
        )
    return has_head if wanted is None else wanted


def _model_type(spec: RunSpec) -> str:
    model = spec.model
    if model.config is not None:
        return str(model.config.get("model_type"))
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model.base, revision=model.revision, trust_remote_code=model.trust_remote_code)
    return str(config.model_type)


def masked_tables(
    tokenizer: Any, texts: Iterable[str], *, max_length: int, is_paired: bool, seed: int
) -> Iterator[pa.Table]:
    """Tables of a few hundred rows.

    Raises:
        ModelError: the tokenizer has no mask token.
        DataError: pairs need a second document.
    """
    if tokenizer.mask_token_id is None:
        raise ModelError(
            "the tokenizer has no mask token",
            value=str(tokenizer.name_or_path),
            allowed="the tokenizer of a model that was made for masked-lm",
            key="model.base",
        )
    room = max_length - tokenizer.num_special_tokens_to_add(pair=is_paired)
    maker = SegmentMaker(lambda parts: _lengths(tokenizer, parts), room, is_paired=is_paired, seed=seed)
    group: list[Segments] = []
    for row in maker.rows(texts):
        group.append(row)
        if len(group) == BATCH:
            yield _table(tokenizer, group, max_length)
            group = []
    if group:
        yield _table(tokenizer, group, max_length)


def _lengths(tokenizer: Any, parts: Sequence[str]) -> list[int]:
    encoded = tokenizer(list(parts), add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [len(ids) for ids in encoded["input_ids"]]


def _table(tokenizer: Any, rows: Sequence[Segments], max_length: int) -> pa.Table:
    is_paired = rows[0].second is not None
    encoded = tokenizer(
        [row.first for row in rows],
        [row.second for row in rows] if is_paired else None,
        truncation="longest_first" if is_paired else True,
        max_length=max_length,
        return_attention_mask=False,
        return_token_type_ids=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    special = [[place for place, is_one in enumerate(marks) if is_one] for marks in encoded["special_tokens_mask"]]
    columns = {
        "input_ids": ragged(encoded["input_ids"]),
        "special": pa.array(special, pa.list_(pa.int32())),
        "mask_token_id": pa.array([tokenizer.mask_token_id] * len(rows), pa.int32()),
        "vocab_size": pa.array([len(tokenizer)] * len(rows), pa.int32()),
        "text": pa.array([row.first for row in rows], pa.large_string()),
    }
    if is_paired:
        types = encoded["token_type_ids"]
        second = [marks.index(1) if 1 in marks else len(marks) for marks in types]
        columns |= {
            "second": pa.array(second, pa.int32()),
            "is_random": pa.array([int(row.is_random) for row in rows], pa.int8()),
        }
    return pa.table(columns)
