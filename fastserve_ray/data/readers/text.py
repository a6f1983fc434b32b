"""Plain text, UTF-8. Blank lines separate documents; a file without any blank line has one document on each line.

So books, plays and wiki text come as paragraphs, and a list of sentences as sentences.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from fastserve_ray.data.readers.table import FileRows, broken_rows

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fastserve_ray.data.files import SourceFile


def read(file: SourceFile, columns: Sequence[str], max_rows: int | None, key: str) -> FileRows:
    """One column, named ``columns[0]``; a document's number is that of its first line."""
    with file.open_lines(key) as lines:
        decoded = _decode(lines, file, key)
    blocks = _blocks(decoded)
    chosen = blocks[:max_rows]
    texts = pa.array([text for _, text in chosen], type=pa.large_string())
    numbers = np.asarray([number for number, _ in chosen], dtype=np.int64)
    return FileRows(file.uri, pa.table({columns[0]: texts}), "line", numbers)


def _decode(lines: Iterable[bytes], file: SourceFile, key: str) -> list[str]:
    decoded, problems = [], []
    for number, line in enumerate(lines, start=1):
        try:
            decoded.append(line.decode().rstrip("\r\n"))
        except UnicodeDecodeError as error:
            problems.append(f"{file.uri} line {number} is not UTF-8 ({error.reason})")
    if problems:
        raise broken_rows(problems, len(problems), f"{key}.path", "save the file as UTF-8")
    return decoded


def _blocks(lines: Sequence[str]) -> list[tuple[int, str]]:
    """Documents with the number of their first line."""
    blocks: list[tuple[int, list[str]]] = []
    is_open = False
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            is_open = False
        elif is_open:
            blocks[-1][1].append(line)
        else:
            blocks.append((number, [line]))
            is_open = True
    if len(blocks) == 1:
        first, only = blocks[0]
        return [(first + offset, line) for offset, line in enumerate(only)]
    return [(number, "\n".join(block)) for number, block in blocks]
