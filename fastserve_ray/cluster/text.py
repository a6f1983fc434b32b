"""YAML as people read it: keys in their order, long texts as blocks, notes above."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

WIDTH = 120


class _Dumper(yaml.SafeDumper):
    """Without anchors: other tools' parsers need not know them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = "|" if "\n" in value else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _text)


def to_yaml(value: Mapping[str, Any]) -> str:
    """One document."""
    return yaml.dump(dict(value), Dumper=_Dumper, sort_keys=False, width=WIDTH, allow_unicode=True)


def to_file(documents: Sequence[Mapping[str, Any]], notes: Sequence[str]) -> str:
    """Documents with their notes as comments."""
    head = "".join(f"# {note}\n" for note in notes)
    return head + "---\n".join(to_yaml(document) for document in documents)
