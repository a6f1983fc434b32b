"""Fingerprints: what identifies an input that lies outside the spec, without reading its content.

A file is known by path, size and time of change, a hub model by id and revision, an artifact by its digest, the
text inside CPython by Python's version. A chat template is read: it is short.
"""

from __future__ import annotations

import platform
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import FastServeError, Problem, SpecError
from fastserve_ray.plan.inputs import list_input, reference_kind
from fastserve_ray.spec.data import FilesSource, HeldOut, PythonDocsSource
from fastserve_ray.spec.template import is_file_name, read_template

if TYPE_CHECKING:
    from collections.abc import Callable

    from pydantic import JsonValue

    from fastserve_ray.spec.data import DataSpec
    from fastserve_ray.spec.run import RunSpec


def fingerprint_inputs(spec: RunSpec) -> dict[str, JsonValue]:
    """Fingerprints by the key that names the input: ``data.train``, ``data.validation``, ``model.base``,
    ``model.tokenizer``, ``model.chat_template``.

    Raises:
        SpecError: with one problem for every input that is not there.
    """
    result: dict[str, JsonValue] = {}
    problems: list[Problem] = []

    def take(key: str, make: Callable[[], JsonValue]) -> None:
        try:
            result[key] = make()
        except FastServeError as error:
            problems.append(Problem(error.key or key, error.what, value=error.value, allowed=error.allowed))

    if spec.data is not None:
        data = spec.data
        take("data.train", lambda: _of_source(data.train, "data.train.path"))
        take("data.validation", lambda: _of_source(data.validation, "data.validation.path"))
    if spec.model.base is not None:
        base = spec.model.base
        take("model.base", lambda: _of_model(base, spec))
    if isinstance(spec.model.tokenizer, str):
        tokenizer = spec.model.tokenizer
        take(
            "model.tokenizer", lambda: _of_model(tokenizer, spec, must_have=("tokenizer.json", "tokenizer_config.json"))
        )
    template = spec.model.chat_template
    if template is not None and is_file_name(template):
        take("model.chat_template", lambda: read_template(template))
    if problems:
        raise SpecError(problems)
    return result


def _of_source(source: DataSpec | FilesSource | PythonDocsSource | HeldOut, key: str) -> JsonValue:
    if isinstance(source, PythonDocsSource):
        return {"python": platform.python_version()}
    if not isinstance(source, FilesSource):
        return None
    try:
        return _of_files(source.path)
    except FastServeError as error:
        error.key = key
        raise


def _of_files(path: str) -> JsonValue:
    return [[file.uri, file.size, file.modified] for file in list_input(path)]


def _of_model(reference: str, spec: RunSpec, must_have: tuple[str, ...] = ("config.json",)) -> JsonValue:
    kind = reference_kind(reference)
    if kind is None:
        raise FastServeError("there is no such folder", value=reference, allowed=_REFERENCES)
    if kind == "hub":
        return {"hub": reference, "revision": spec.model.revision}
    if kind == "artifact":
        return {"artifact": _artifact_digest(reference, spec.storage)}
    if kind == "folder" and not any((Path(reference).expanduser() / name).is_file() for name in must_have):
        raise FastServeError(f"this folder has no {' or '.join(must_have)}", value=reference, allowed=_REFERENCES)
    return _of_files(reference)


_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_REFERENCES = "a Hugging Face hub id, the folder of a model, a storage URI, run@stage or artifact:ID"


def _artifact_digest(reference: str, storage: str) -> str:
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage

    return Registry(Storage.open(storage)).resolve(reference).digest
