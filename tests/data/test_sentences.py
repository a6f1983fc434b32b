"""Segments keep the text, stay within their rows, and the wrong ones are of other documents."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.data.sentences import SegmentMaker, sentences
from fastserve_ray.errors import DataError
from fastserve_ray.models.loading import load_tokenizer
from fastserve_ray.spec.load import spec_from_dict
from fastserve_ray.tasks.table import load_task
from tests.spec.files import problems_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

DOCUMENTS = [" ".join(f"Text {n} has part {part}." for part in range(3 + n % 5)) for n in range(40)]
CONFIG = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def words(texts: Sequence[str]) -> list[int]:
    return [len(text.split()) for text in texts]


def make(room: int, *, is_paired: bool) -> SegmentMaker:
    return SegmentMaker(words, room, is_paired=is_paired, seed=0)


def test_sentences_end_where_people_end_them() -> None:
    text = "It is 3.5 m. Is it? Yes!\nA title\n\n\u4f60\u597d\u3002\u518d\u89c1\u3002"
    found = ["It is 3.5 m.", "Is it?", "Yes!", "A title", "\u4f60\u597d\u3002", "\u518d\u89c1\u3002"]
    assert sentences(text) == found


def test_single_segments_lose_no_word_and_fit() -> None:
    rows = list(make(12, is_paired=False).rows([*DOCUMENTS, "word " * 50]))
    assert max(words([row.first for row in rows])) <= 12
    found = " ".join(row.first for row in rows).split()
    assert found == " ".join([*DOCUMENTS, "word " * 50]).split()
    assert all(row.second is None for row in rows)


def test_half_of_the_pairs_go_on_and_the_other_half_are_of_other_documents() -> None:
    documents = [" ".join(f"Text {n} has part {part}." for part in range(3 + n % 5)) for n in range(200)]
    rows = list(make(22, is_paired=True).rows(documents))
    share = sum(row.is_random for row in rows) / len(rows)
    assert 0.4 < share < 0.75  # a stretch of one sentence can only have a wrong one
    for row in rows:
        assert row.second is not None
        if row.is_random:
            assert row.first.split()[1] != row.second.split()[1]
        else:
            assert any(f"{row.first} {row.second}" in document for document in documents)


def test_the_seed_decides_the_pairs() -> None:
    rows = [list(SegmentMaker(words, 22, is_paired=True, seed=seed).rows(DOCUMENTS)) for seed in (0, 0, 1)]
    assert rows[0] == rows[1] != rows[2]


def test_pairs_need_two_documents() -> None:
    with pytest.raises(DataError) as caught:
        list(make(22, is_paired=True).rows(DOCUMENTS[:1]))
    assert caught.value.key == "data.next_sentence"


def prepared(tmp_path: Path, **data: Any) -> PreparedDataset:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    spec = {
        "name": "tiny",
        "model": {"task": "masked-lm", "config": CONFIG, "tokenizer": {"vocab_size": 320}},
        "data": {"train": {"path": str(path)}, "max_length": 32, **data},
        "train": {},
    }
    (tmp_path / "out").mkdir()
    prepare_dataset(spec_from_dict(spec), tmp_path / "out")
    return PreparedDataset.open(tmp_path / "out")


def test_prepared_pairs_have_all_that_masking_needs(tmp_path: Path) -> None:
    dataset = prepared(tmp_path)
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    for row in dataset.train:
        ids = row["input_ids"].tolist()
        assert len(ids) <= 32
        assert [ids[place] for place in row["special"]] == [tokenizer.eos_token_id] * 3
        assert row["special"][1] + 1 == row["second"]
        assert row["mask_token_id"] == tokenizer.mask_token_id
        assert row["vocab_size"] == len(tokenizer)
    batch = load_task("masked-lm").collate(dataset.train[:4], dataset.info.pad_token_id)
    assert batch["next_sentence_label"].tolist() == [row["is_random"] for row in dataset.train[:4]]


def test_without_next_sentence_rows_are_single(tmp_path: Path) -> None:
    dataset = prepared(tmp_path, next_sentence=False)
    assert "second" not in dataset.train[0]
    assert len(dataset.train[0]["special"]) == 2


def test_a_masked_model_is_neither_served_nor_compressed() -> None:
    model = {"task": "masked-lm", "config": CONFIG}
    spec: dict[str, Any] = {"name": "tiny", "model": model, "data": {"train": {"kind": "python-docs"}}, "train": {}}
    assert not problems_of(spec)
    assert "fine-tuned" in problems_of({**spec, "serve": {}})["serve"].message
    assert "fine-tuned" in problems_of({**spec, "compress": [{"kind": "quantize"}]})["compress"].message
    other = {**spec, "model": {**model, "config": {**CONFIG, "model_type": "roberta"}}}
    other["data"] = {**spec["data"], "next_sentence": True}
    assert "no head" in problems_of(other)["data.next_sentence"].message
