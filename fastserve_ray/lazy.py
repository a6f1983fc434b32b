"""Tables of names to ``module:object`` strings, loaded when a name is chosen.

A static table is the same in the driver and in every worker; a registration made by an import is not.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from typing import Any

from fastserve_ray.errors import UnknownNameError


class LazyTable(Mapping[str, str]):
    """A read-only table ``name -> "module:object"``.

    Args:
        what: what the names are, for messages ("compression step").
        key: the YAML key where a user chooses the name.
        entries: the table.
    """

    def __init__(self, what: str, key: str, entries: Mapping[str, str]) -> None:
        self._what = what
        self._key = key
        self._entries = dict(entries)

    def __getitem__(self, name: str) -> str:
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def load(self, name: str) -> Any:
        """The object behind ``name``, or behind a third party's ``package.module:Class``.

        Raises:
            UnknownNameError: the name is not in the table, or the path does not resolve.
        """
        target = self._entries.get(name, name if ":" in name else None)
        if target is None:
            near = difflib.get_close_matches(name, self._entries, n=1)
            raise UnknownNameError(
                f"unknown {self._what}",
                value=name,
                allowed=", ".join(sorted(self._entries)) + ", or package.module:Class",
                key=self._key,
                hint=f"did you mean {near[0]!r}?" if near else None,
            )
        return resolve(target, what=self._what, key=self._key)


def resolve(target: str, *, what: str, key: str) -> Any:
    """Import ``"module:object"``.

    Raises:
        UnknownNameError: the module or the object does not exist.
    """
    module_name, _, attribute = target.partition(":")
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise UnknownNameError(
            f"cannot import {what} ({error})", value=target, allowed="an importable package.module:Class", key=key
        ) from error
