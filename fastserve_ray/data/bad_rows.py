"""Rows that cannot be used: counted, named with file and row, and either an error or left out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

from fastserve_ray.errors import DataError

if TYPE_CHECKING:
    from pathlib import Path

OnBadRows = Literal["fail", "skip"]

REPORT_FILE = "bad_rows.jsonl"
SHOWN_PLACES = 3
"""Broken rows that a message lists."""
MAX_REPORTED = 10_000
"""Broken rows that the report lists; the rest are counted only."""
MAX_BEFORE_FAILING = 1_000
"""Broken rows of one file after which reading on would tell nothing new."""


class UnusableFileError(DataError):
    """A file that is damaged, or lacks a column, as a whole: fatal, or skipped like a row."""


class BadRows:
    """What was wrong with the rows of a dataset.

    With ``fail`` the error comes at the end of the file, so that it counts the file's broken rows and lists the first.

    Args:
        mode: ``data.on_bad_rows``.
        report: file that gets one JSON object a broken row (``file``, ``row`` or ``line``, ``problem``), the first
            ``MAX_REPORTED`` of them; it is there only if there is one.
    """

    def __init__(self, mode: OnBadRows = "fail", report: Path | None = None) -> None:
        self.mode = mode
        self.num_rows = 0
        """Broken rows so far; those of a file that cannot be read at all are not known and not counted."""
        self.num_files = 0
        """Files of which some part could not be read."""
        self.shown: list[str] = []
        """The first few, each with its place."""
        self._report = report
        self._num_reported = 0
        self._num_noted = 0
        self._key: str | None = None
        self._hint: str | None = None

    def add(self, file: str, unit: str, number: int, problem: str, *, key: str, hint: str | None = None) -> None:
        """One row.

        Args:
            unit: what ``number`` counts from 1: "row" or "line".
            problem: words that follow the place, for example "has no label".
            key: what to change, for the error.
        """
        self._note(f"{file} {unit} {number} {problem}", key, hint)
        self._write({"file": file, unit: number, "problem": problem})
        self.num_rows += 1

    def add_part(self, file: str, what: str, num_rows: int, error: DataError) -> None:
        """A part of a file, for example a row group, or all of it, that cannot be read.

        Args:
            what: the part, for example "rows 101 to 200"; empty for the whole file.
            num_rows: in that part, 0 if nobody knows.

        Raises:
            DataError: ``error``, in mode ``fail``.
        """
        if self.mode == "fail":
            raise error
        problem = " ".join(f"{error.what}: {error.value}".split())
        self._note(f"{file} {what}: {problem}" if what else problem, error.key or "data", error.hint)
        self._write({"file": file, "part": what or "all", "rows": num_rows, "problem": problem})
        self.num_rows += num_rows
        self.num_files += 1

    def raise_if_fatal(self, *, is_end_of_file: bool) -> None:
        """Raise what was found, in mode ``fail``; within a file only when there is much of it.

        Raises:
            DataError: names the first broken rows and counts those found so far.
        """
        if self.mode == "fail" and self.num_rows >= (1 if is_end_of_file else MAX_BEFORE_FAILING):
            raise self.as_error()

    def as_error(self) -> DataError:
        """The broken rows as an error."""
        return DataError(
            self.headline(),
            value=self.listing(),
            key=self._key,
            hint=self._hint or "correct or delete them; or leave them out with data.on_bad_rows: skip",
        )

    def headline(self) -> str:
        """``3 rows cannot be used``."""
        rows = f"{self.num_rows} row{'s' if self.num_rows != 1 else ''}"
        files = f" and parts of {self.num_files} file{'s' if self.num_files != 1 else ''}" if self.num_files else ""
        return f"{rows}{files} cannot be used"

    def listing(self) -> str:
        """The first few with their places."""
        more = self._num_noted - len(self.shown)
        return "; ".join(self.shown) + (f"; and {more} more" if more > 0 else "")

    @property
    def is_empty(self) -> bool:
        """Whether all was well."""
        return not self._num_noted

    def _note(self, text: str, key: str, hint: str | None) -> None:
        self._num_noted += 1
        if len(self.shown) < SHOWN_PLACES:
            self.shown.append(text)
        if self._key is None:
            self._key, self._hint = key, hint

    def _write(self, entry: dict[str, str | int]) -> None:
        if self._report is None or self._num_reported >= MAX_REPORTED:
            return
        self._num_reported += 1
        with self._report.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry, ensure_ascii=False) + "\n")
