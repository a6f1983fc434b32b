"""YAML text to plain values, with the place of every key.

PyYAML parses; values follow the YAML 1.2 core schema (``5e-5`` is a number, ``on`` is a string) instead of PyYAML's
1.1, which reads both the other way. ``${env:NAME}`` and ``${env:NAME:-default}`` are expanded before an unquoted
scalar is typed, so ``port: ${env:PORT:-8000}`` is an integer; a quoted scalar stays a string.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import yaml
from yaml.composer import Composer
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.resolver import BaseResolver
from yaml.scanner import Scanner

from fastserve_ray.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

Path = tuple[str | int, ...]
"""Keys and list indices from the root of the file."""

Plain = str | int | float | bool | None | list["Plain"] | dict[str, "Plain"]

MAX_NODES = 100_000
"""Values in one file, aliases counted as often as they are used: a bound on what a few aliases can blow up to."""

_UNTAGGED = "?"
_STRING_TAG = "tag:yaml.org,2002:str"
_ENV = re.compile(r"\$\{env:([^}:]*)(:-([^}]*))?\}")
_HIDE = str.maketrans("{}[]:,#", "\ue000\ue001\ue002\ue003\ue004\ue005\ue006")
_SHOW = {hidden: shown for shown, hidden in _HIDE.items()}
_INT = re.compile(r"[-+]?[0-9]+")
_OCTAL = re.compile(r"0o[0-7]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INFINITY = re.compile(r"([-+]?)\.(inf|Inf|INF)")
_WORDS: dict[str, bool | None] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """Where something stands; ``file`` may also be a flag. Lines and columns count from 1."""

    file: str | None
    line: int | None = None
    column: int | None = None


@dataclass
class Document:
    """What was read. ``data`` is None when the text is no YAML at all."""

    data: Plain
    marks: dict[Path, Mark] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def mark_of(self, path: Path) -> Mark:
        """The place of ``path``, or of its nearest ancestor that stands in the file."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.marks:
                return self.marks[path[:length]]
        return Mark(None)


def dotted(path: Path) -> str:
    """A path as users write it: ``compress.0.sparsity``."""
    return ".".join(str(part) for part in path)


def read_yaml(text: str, *, file: str | None, env: Mapping[str, str]) -> Document:
    """Parse ``text``; whatever is wrong ends in ``problems`` and the rest is read on."""
    reader = _Reader(file, env)
    try:
        node = _Loader(_hide_env(text)).get_single_node()
        data = reader.build(node, ()) if node is not None else None
    except yaml.MarkedYAMLError as error:
        return Document(None, problems=[_syntax_problem(error, file)])
    except (yaml.YAMLError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error).splitlines()[0]
        return Document(None, problems=[Problem("", f"not readable as YAML: {what}", file=file)])
    return Document(data, reader.marks, reader.problems)


class _Resolver(BaseResolver):
    """Leaves untagged what no one tagged, so that an explicit ``!!str`` can be told from a plain word."""


for _name in ("DEFAULT_SCALAR_TAG", "DEFAULT_SEQUENCE_TAG", "DEFAULT_MAPPING_TAG"):
    setattr(_Resolver, _name, _UNTAGGED)


class _Loader(Reader, Scanner, Parser, Composer, _Resolver):
    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)
        Composer.__init__(self)
        _Resolver.__init__(self)


class _Reader:
    def __init__(self, file: str | None, env: Mapping[str, str]) -> None:
        self._file = file
        self._env = env
        self._open: set[int] = set()
        self._count = 0
        self.marks: dict[Path, Mark] = {}
        self.problems: list[Problem] = []

    def build(self, node: Node, path: Path) -> Plain:
        self._count += 1
        if id(node) in self._open or self._count > MAX_NODES:
            raise yaml.YAMLError(f"aliases make {dotted(path)!r} refer to itself or expand to over {MAX_NODES} values")
        self.marks.setdefault(path, self._mark(node))
        if node.tag not in (_UNTAGGED, _STRING_TAG):
            self._report(node, path, f"the tag {node.tag!r} is not supported", allowed="plain YAML without tags")
            return None
        self._open.add(id(node))
        value = self._build_untagged(node, path)
        self._open.discard(id(node))
        return value

    def _build_untagged(self, node: Node, path: Path) -> Plain:
        if isinstance(node, MappingNode):
            return self._build_mapping(node, path)
        if isinstance(node, SequenceNode):
            return [self.build(child, (*path, index)) for index, child in enumerate(node.value)]
        return self._build_scalar(node, path)

    def _build_mapping(self, node: MappingNode, path: Path) -> dict[str, Plain]:
        result: dict[str, Plain] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self._report(key_node, path, "a key must be a plain word")
                continue
            key = str(key_node.value).translate(_SHOW)
            child = (*path, key)
            if key in result:
                first = self.marks[child].line
                self._report(key_node, child, f"the key stands twice; the first time in line {first}")
                continue
            self.marks[child] = self._mark(key_node)
            result[key] = self.build(value_node, child)
        return result

    def _build_scalar(self, node: Node, path: Path) -> Plain:
        text = self._expand(node, path)
        is_plain = node.tag == _UNTAGGED and isinstance(node, ScalarNode) and node.style is None
        return typed(text) if is_plain else text

    def _expand(self, node: Node, path: Path) -> str:
        def replace(match: re.Match[str]) -> str:
            name, has_default, default = match.group(1), match.group(2), match.group(3)
            value = self._env.get(name)
            if value:
                return value
            if has_default:
                return default or ""
            if value is None:
                self._report(
                    node,
                    path,
                    f"the environment variable {name!r} is not set",
                    allowed=f"export {name}=..., or a default: ${{env:{name}:-value}}",
                )
            return ""

        return _ENV.sub(replace, str(node.value).translate(_SHOW))

    def _mark(self, node: Node) -> Mark:
        return Mark(self._file, node.start_mark.line + 1, node.start_mark.column + 1)

    def _report(self, node: Node, path: Path, message: str, *, allowed: str | None = None) -> None:
        mark = self._mark(node)
        self.problems.append(
            Problem(dotted(path), message, allowed=allowed, file=mark.file, line=mark.line, column=mark.column)
        )


def _hide_env(text: str) -> str:
    """Replace what YAML would read as its own in ``${env:...}`` by private characters, so that it may stand inside
    ``{}`` and ``[]`` without quotes; the length stays, and so do all columns."""
    return _ENV.sub(lambda match: match.group(0).translate(_HIDE), text)


def typed(text: str) -> Plain:
    """An unquoted scalar by the YAML 1.2 core schema (yaml.org/spec/1.2.2, section 10.3.2)."""
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text):
        return float(text)
    if infinity := _INFINITY.fullmatch(text):
        return float(f"{infinity.group(1)}inf")
    return float("nan") if text in (".nan", ".NaN", ".NAN") else text


def _syntax_problem(error: yaml.MarkedYAMLError, file: str | None) -> Problem:
    mark = error.problem_mark or error.context_mark
    what = error.problem or error.context or "unknown"
    if "'\\t'" in what:
        what = "a tab character; indent with spaces"
    return Problem(
        "",
        f"not readable as YAML: {what}",
        file=file,
        line=mark.line + 1 if mark else None,
        column=mark.column + 1 if mark else None,
    )
