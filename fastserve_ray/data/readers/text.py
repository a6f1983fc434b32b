"""Plain text, UTF-8. Blank lines separate documents; a file without any blank line has one document on each line.

So books, plays and wiki text come as paragraphs, and a list of sentences as sentences. A file is looked at up to its
first blank line between others before it is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fastserve_ray.data.readers.table import CHUNK_BYTES, CHUNK_ROWS, FileRows

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from fastserve_ray.data.bad_rows import BadRows
    from fastserve_ray.data.files import SourceFile

Document = tuple[int, list[bytes]]
"""Number of the first line, and the lines."""


def read(file: SourceFile, columns: Mapping[str, str], bad: BadRows, key: str) -> Iterator[FileRows]:
    """One column; a document's number is that of its first line. One with bytes that are not UTF-8 is bad."""
    with file.open_lines(key) as lines:
        has_paragraphs = _has_paragraphs(lines)
    numbers: list[int] = []
    texts: list[str] = []
    num_bytes = 0
    with file.open_lines(key) as lines:
        for number, block in _paragraphs(lines) if has_paragraphs else _single_lines(lines):
            text = _decode(number, block, file, bad, key)
            if text is None:
                continue
            numbers.append(number)
            texts.append(text)
            num_bytes += len(text)
            if num_bytes >= CHUNK_BYTES or len(texts) >= CHUNK_ROWS:
                yield _rows(file, columns, texts, numbers)
                numbers, texts, num_bytes = [], [], 0
    yield _rows(file, columns, texts, numbers)


def _rows(file: SourceFile, columns: Mapping[str, str], texts: list[str], numbers: list[int]) -> FileRows:
    table = pa.table({next(iter(columns.values())): pa.array(texts, type=pa.large_string())})
    return FileRows(file.uri, table, np.asarray(numbers, dtype=np.int64), "line")


def _has_paragraphs(lines: Iterable[bytes]) -> bool:
    """Whether a blank line lies between others."""
    has_text = has_gap = False
    for line in lines:
        if not line.strip():
            has_gap = has_text
        elif has_gap:
            return True
        else:
            has_text = True
    return False


def _single_lines(lines: Iterable[bytes]) -> Iterator[Document]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield number, [line]


def _paragraphs(lines: Iterable[bytes]) -> Iterator[Document]:
    block: list[bytes] = []
    first = 1
    for number, line in enumerate(lines, start=1):
        if line.strip():
            first = first if block else number
            block.append(line)
        elif block:
            yield first, block
            block = []
    if block:
        yield first, block


def _decode(first: int, block: list[bytes], file: SourceFile, bad: BadRows, key: str) -> str | None:
    decoded = []
    for number, line in enumerate(block, start=first):
        try:
            decoded.append(line.decode().rstrip("\r\n"))
        except UnicodeDecodeError as error:
            problem, hint = f"is not UTF-8 ({error.reason})", "save the file as UTF-8"
            bad.add(file.uri, "line", number, problem, key=f"{key}.path", hint=hint)
            return None
    return "\n".join(decoded)
