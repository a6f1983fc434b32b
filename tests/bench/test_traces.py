"""Published forms of traces, written by hand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fastserve_ray.bench.traces import TraceRow, read_trace
from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path


def test_azure_as_csv(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:47.1805900,396,109\n"
        "2023-11-16 18:15:46.6805900,374,44\n"
        "2023-11-16 18:15:48.0000000,374,0\n"
    )
    first, second = read_trace(path)
    assert (first.at, first.num_prompt_tokens, first.num_completion_tokens) == (0.0, 374, 44)
    assert second.at == pytest.approx(0.5, abs=1e-5)


def test_mooncake_as_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    rows = [
        {"timestamp": 3000, "input_length": 700, "output_length": 5, "hash_ids": [0, 1]},
        {"timestamp": 4500, "input_length": 600, "output_length": 6, "hash_ids": [0, 2]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    assert read_trace(path) == [TraceRow(0.0, 700, 5, (0, 1)), TraceRow(1.5, 600, 6, (0, 2))]


def test_lengths_without_times_as_parquet(tmp_path: Path) -> None:
    path = tmp_path / "trace.parquet"
    pq.write_table(pa.table({"prefill_tokens": [74, 290, 5], "decode_tokens": [918, 905, 6]}), path)
    assert read_trace(path, limit=2) == [TraceRow(None, 74, 918), TraceRow(None, 290, 905)]


def test_seconds_are_seconds(tmp_path: Path) -> None:
    path = tmp_path / "burst.csv"
    path.write_text("Timestamp,Model,Request tokens,Response tokens\n5,ChatGPT,472,18\n45,ChatGPT,1087,230\n")
    assert read_trace(path) == [TraceRow(0.0, 472, 18), TraceRow(40.0, 1087, 230)]


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("t.csv", "a,b\n1,2\n", "no column for the length of the prompt"),
        ("t.csv", "input_length,output_length\n1,x\n", "row 1"),
        ("t.csv", "input_length,output_length\n0,3\n", "no request"),
        ("t.jsonl", "{", "cannot be read"),
        ("t.txt", "", "of this kind"),
    ],
)
def test_what_is_wrong_is_told(tmp_path: Path, name: str, text: str, words: str) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(DataError, match=words):
        read_trace(path)


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        read_trace(tmp_path / "none.csv")
