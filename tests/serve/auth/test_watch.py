"""The file of keys, changed under a running server."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.serve.auth.table import KeyTable
from fastserve_ray.serve.auth.watch import KeysWatch
from fastserve_ray.serve.failures import RequestFailed
from fastserve_ray.spec.keys import hash_of

if TYPE_CHECKING:
    from pathlib import Path


def entries(*names: str) -> str:
    return "keys:\n" + "".join(f"  - {{name: {name}, sha256: {hash_of(name)}}}\n" for name in names)


def knows(table: KeyTable, name: str) -> bool:
    try:
        return table.find(f"Bearer {name}").name == name
    except RequestFailed:
        return False


def test_a_file_that_changes_is_read_again(tmp_path: Path) -> None:
    file, table = tmp_path / "keys.yaml", KeyTable(())
    file.write_text(entries("alice"))
    watch = KeysWatch(file, table)
    watch.look()
    assert knows(table, "alice")
    file.write_text(entries("bob", "carol"))
    watch.look()
    assert [knows(table, name) for name in ("alice", "bob", "carol")] == [False, True, True]


@pytest.mark.parametrize("broken", ["keys: [", "keys: []", None])
def test_a_file_that_is_wrong_or_gone_leaves_the_keys_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str | None
) -> None:
    logger = logging.getLogger("ray.serve")
    monkeypatch.setattr(logger, "handlers", [caplog.handler])
    monkeypatch.setattr(logger, "propagate", False)
    file, table = tmp_path / "keys.yaml", KeyTable(())
    file.write_text(entries("alice"))
    watch = KeysWatch(file, table)
    watch.look()
    file.unlink() if broken is None else file.write_text(broken)
    watch.look()
    watch.look()
    assert knows(table, "alice")
    assert sum("the keys stay as they were" in record.message for record in caplog.records) == 1
    file.write_text(entries("bob"))
    watch.look()
    assert (knows(table, "alice"), knows(table, "bob")) == (False, True)
