"""Prepared datasets: nothing is lost, nothing leaks, and the same input gives the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest

from fastserve_ray.data.dataset import PreparedDataset
from fastserve_ray.data.prepare import prepare_dataset
from fastserve_ray.errors import DataError, ModelError
from fastserve_ray.models.loading import load_tokenizer
from fastserve_ray.spec.load import dump_spec, spec_from_dict

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.spec import RunSpec

CONFIG = {"model_type": "llama", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
DOCUMENTS = [f"Document {n}: the {word} runs,\nand “ends” — here {n * n}." for n in range(40) for word in ("fox", "ox")]


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in DOCUMENTS))
    return path


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    rows = [f"film {n} was {'good' if n % 3 else 'bad'},{'pos' if n % 3 else 'neg'}" for n in range(60)]
    path.write_text("\n".join(["sentence,mood", *rows]))
    return path


def generation(corpus: Path, **data: Any) -> RunSpec:
    return spec_from_dict(
        {
            "name": "tiny",
            "model": {"config": CONFIG, "tokenizer": {"vocab_size": 320}},
            "data": {"train": {"path": str(corpus)}, "max_length": 16, **data},
            "train": {},
        }
    )


def classification(reviews: Path, **model: Any) -> RunSpec:
    return spec_from_dict(
        {
            "name": "tiny",
            "model": {"task": "text-classification", "config": {**CONFIG, "model_type": "bert"}, **model},
            "data": {
                "train": {"path": str(reviews)},
                "columns": {"text": "sentence", "label": "mood"},
                "max_length": 12,
            },
            "train": {},
        }
    )


def prepared(spec: RunSpec, folder: Path) -> PreparedDataset:
    folder.mkdir()
    prepare_dataset(spec, folder)
    return PreparedDataset.open(folder)


def tokens(dataset: PreparedDataset, split: str) -> list[int]:
    rows = dataset.train if split == "train" else dataset.validation
    return np.concatenate([row["input_ids"] for row in rows]).tolist()  # type: ignore[no-any-return]


def test_blocks_decode_to_the_documents(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    found = {
        split: [tokenizer.decode(part) for part in documents_of(tokens(dataset, split), tokenizer.eos_token_id)]
        for split in ("train", "validation")
    }
    assert sorted(found["train"] + found["validation"]) == sorted(DOCUMENTS)
    assert len(found["validation"]) == 8
    assert not set(found["train"]) & set(found["validation"])


def documents_of(ids: list[int], eos: int) -> list[list[int]]:
    documents: list[list[int]] = [[]]
    for token in ids:
        if token == eos:
            documents.append([])
        else:
            documents[-1].append(token)
    return [document for document in documents if document]


def test_rows_are_full_but_the_last(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    lengths = [len(row["input_ids"]) for row in dataset.train]
    assert set(lengths[:-1]) == {16}
    assert 2 <= lengths[-1] <= 16
    assert dataset.info.num_tokens == sum(lengths)
    assert dataset.train[0]["input_ids"].dtype == np.int32


def test_rows_say_where_documents_begin(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    eos = load_tokenizer(dataset.tokenizer_folder).eos_token_id
    for row in dataset.train:
        assert sum(row["lengths"]) == len(row["input_ids"])
        ends = [sum(row["lengths"][: count + 1]) - 1 for count in range(len(row["lengths"]))]
        found = [index for index, token in enumerate(row["input_ids"]) if token == eos]
        assert ends == sorted({*found, len(row["input_ids"]) - 1})


def test_the_facts_are_true(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    info = dataset.info
    assert (info.num_train, info.num_validation) == (len(dataset.train), len(dataset.validation))
    assert (info.vocab_size, info.pad_token_id) == (len(tokenizer), tokenizer.pad_token_id)
    assert max(tokens(dataset, "train")) < info.vocab_size
    assert info.label_names is None


def test_validation_rows_have_plain_text(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    for row in dataset.validation:
        assert row["text"]
        assert "<|" not in row["text"]
        assert row["text"] in tokenizer.decode(row["input_ids"])


def test_the_same_input_gives_the_same_bytes_in_another_process(corpus: Path, tmp_path: Path) -> None:
    spec = generation(corpus)
    prepared(spec, tmp_path / "here")
    (tmp_path / "there").mkdir()
    code = (
        "import json, sys; from pathlib import Path; from fastserve_ray.spec.load import spec_from_dict;"
        "from fastserve_ray.data.prepare import prepare_dataset;"
        "prepare_dataset(spec_from_dict(json.loads(sys.argv[1])), Path(sys.argv[2]))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true"}
    subprocess.run(
        [sys.executable, "-c", code, json.dumps(dump_spec(spec)), str(tmp_path / "there")], check=True, env=environment
    )
    assert digests(tmp_path / "here") == digests(tmp_path / "there")


def digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_the_seed_decides_what_is_held_out(corpus: Path, tmp_path: Path) -> None:
    held_out = [tokens(prepared(generation(corpus, seed=seed), tmp_path / str(seed)), "validation") for seed in (0, 1)]
    assert held_out[0] != held_out[1]


def test_validation_may_have_files_of_its_own(corpus: Path, tmp_path: Path) -> None:
    (tmp_path / "dev.txt").write_text("The fox ends here.\n\nThe ox runs.")
    dataset = prepared(generation(corpus, validation={"path": str(tmp_path / "dev.txt")}), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    found = documents_of(tokens(dataset, "validation"), tokenizer.eos_token_id)
    assert [tokenizer.decode(part) for part in found] == ["The fox ends here.", "The ox runs."]


def test_one_document_cannot_be_split(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one line")
    with pytest.raises(DataError, match="cannot be split") as caught:
        prepared(generation(tmp_path / "a.txt"), tmp_path / "out")
    assert caught.value.key == "data.validation"


def test_classes_are_cut_and_framed(reviews: Path, tmp_path: Path) -> None:
    dataset = prepared(classification(reviews), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    assert dataset.info.label_names == ("neg", "pos")
    assert (len(dataset.train), len(dataset.validation)) == (54, 6)
    for row in [*dataset.train, *dataset.validation]:
        assert row["label"] == int("good" in row["text"])
        assert row["input_ids"].tolist() == tokenizer(row["text"], truncation=True, max_length=12)["input_ids"]
        assert row["input_ids"][0] == tokenizer.eos_token_id
        assert len(row["input_ids"]) <= 12


CHATS = [[{"role": "user", "content": f"{n}?"}, {"role": "assistant", "content": f"It is {n}."}] for n in range(30)]


@pytest.mark.parametrize("form", ["messages", "text", "pair"])
def test_conversations_of_every_form_are_the_same_rows(tmp_path: Path, form: str) -> None:
    make: dict[str, Any] = {
        "messages": lambda chat: {"messages": chat},
        "text": lambda chat: {"messages": json.dumps(chat)},
        "pair": lambda chat: {"asked": chat[0]["content"], "said": chat[1]["content"]},
    }
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(make[form](chat)) + "\n" for chat in CHATS))
    columns = {"prompt": "asked", "completion": "said"} if form == "pair" else {"messages": "messages"}
    dataset = prepared(generation(path, columns=columns, max_length=64), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    rows = [*dataset.train, *dataset.validation]
    assert sum(len(row["lengths"]) for row in rows) == len(CHATS)
    trained = [
        tokenizer.decode(row["input_ids"][start:end])
        for row in rows
        for start, end in zip(row["answers"][::2], row["answers"][1::2], strict=True)
    ]
    assert sorted(trained) == sorted(f"It is {n}.<|endoftext|>\n" for n in range(30))
    assert all("<|user|>\n" in tokenizer.decode(row["input_ids"]) for row in rows)
    assert all(row["text"] for row in dataset.validation)


def test_an_instruction_may_be_about_something(tmp_path: Path) -> None:
    rows = [{"i": f"Name {n}.", "x": ("", None, "It is here.")[n % 3], "o": f"It is {n}."} for n in range(30)]
    path = tmp_path / "alpaca.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "i", "input": "x", "completion": "o"}
    dataset = prepared(generation(path, columns=columns, max_length=64), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    text = "".join(tokenizer.decode(row["input_ids"]) for row in [*dataset.train, *dataset.validation])
    for n in range(30):
        below = "\n\nIt is here." if n % 3 == 2 else ""
        assert f"<|user|>\nName {n}.{below}<|endoftext|>" in text


def test_long_conversations_are_counted_and_told(tmp_path: Path) -> None:
    long = [[{"role": "user", "content": "x " * 200}, {"role": "assistant", "content": "Too late."}]]
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in [*CHATS, *long]))
    told: list[str] = []
    (tmp_path / "out").mkdir()
    spec = generation(path, columns={"messages": "messages"}, max_length=64)
    info = prepare_dataset(spec, tmp_path / "out", warn=told.append)
    assert (info.cut_rows, info.skipped_rows) == (1, 1)
    assert "1 of 31 conversations are longer" in told[0]


def test_a_row_without_an_answer_names_its_place(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in [*CHATS[:2], CHATS[3][:1]]))
    with pytest.raises(DataError, match="cannot be used") as caught:
        prepared(generation(path, columns={"messages": "messages"}), tmp_path / "out")
    assert "line 3" in str(caught.value.value)


def test_a_template_of_ones_own_is_saved_with_the_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in CHATS))
    own = "{% for m in messages %}{{ m['role'][0] }}: {{ m['content'] }}<|endoftext|>{% endfor %}"
    own += "{% if add_generation_prompt %}a: {% endif %}"
    (tmp_path / "own.jinja").write_text(own)
    spec: dict[str, Any] = dict(dump_spec(generation(path, columns={"messages": "messages"}, max_length=32)))
    spec["model"]["chat_template"] = str(tmp_path / "own.jinja")
    dataset = prepared(spec_from_dict(spec), tmp_path / "out")
    tokenizer = load_tokenizer(dataset.tokenizer_folder)
    assert tokenizer.chat_template == own
    assert tokenizer.decode(dataset.train[0]["input_ids"]).startswith("u: ")


def test_a_base_brings_its_tokenizer(reviews: Path, tmp_path: Path) -> None:
    first = prepared(classification(reviews), tmp_path / "first")
    spec = dump_spec(classification(reviews)) | {
        "model": {"task": "text-classification", "base": str(first.tokenizer_folder)}
    }
    second = prepared(spec_from_dict(spec), tmp_path / "second")
    assert tokens(second, "train") == tokens(first, "train")


def test_generation_needs_an_end_token(corpus: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    endless = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel({"?": 0}, unk_token="?")), unk_token="?"
    )
    endless.save_pretrained(tmp_path / "tokenizer")
    spec = dump_spec(generation(corpus)) | {"model": {"config": CONFIG, "tokenizer": str(tmp_path / "tokenizer")}}
    with pytest.raises(ModelError, match="no eos_token") as caught:
        prepared(spec_from_dict(spec), tmp_path / "out")
    assert caught.value.key == "model.tokenizer"


def test_progress_counts_texts(corpus: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []

    def progress(*, step: int, total: int | None, **fields: float | str | None) -> None:
        seen.append((step, total))

    prepare_dataset(generation(corpus), tmp_path, progress)
    assert seen[0] == (0, None)
    assert seen[-1] == (80, 80)


def test_rows_share_the_tables_memory(corpus: Path, tmp_path: Path) -> None:
    dataset = prepared(generation(corpus), tmp_path / "out")
    first, second = dataset.train[0]["input_ids"], dataset.train[1]["input_ids"]
    assert second.__array_interface__["data"][0] - first.__array_interface__["data"][0] == 4 * 16
    assert pa.ipc.open_file(tmp_path / "out" / "train.arrow").schema.names == ["input_ids", "lengths"]
    assert [row["input_ids"].tolist() for row in dataset.train[1:3]] == [
        dataset.train[1]["input_ids"].tolist(),
        dataset.train[2]["input_ids"].tolist(),
    ]


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a prepared dataset"):
        PreparedDataset.open(tmp_path)
