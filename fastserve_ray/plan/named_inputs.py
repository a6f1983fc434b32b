"""Which keys of a file name what is read: one list for all that must know whether other machines can read it too."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from fastserve_ray.spec.data import FilesSource
from fastserve_ray.spec.template import is_file_name

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastserve_ray.spec.run import RunSpec


class NamedInput(NamedTuple):
    """A key and what it says."""

    key: str
    value: str
    is_reference: bool = False
    """It may also name an artifact or a model of the hub; else it is a file, a folder, a glob or a URI."""


def inputs_of_run(spec: RunSpec) -> Iterator[NamedInput]:
    """What a run reads, and what its stages' digests are made of."""
    model, data = spec.model, spec.data
    if data is not None:
        for name, source in (("train", data.train), ("validation", data.validation)):
            if isinstance(source, FilesSource):
                yield NamedInput(f"data.{name}.path", source.path)
    if model.base is not None:
        yield NamedInput("model.base", model.base, is_reference=True)
    if isinstance(model.tokenizer, str):
        yield NamedInput("model.tokenizer", model.tokenizer, is_reference=True)
    if model.chat_template is not None and is_file_name(model.chat_template):
        yield NamedInput("model.chat_template", model.chat_template)


def inputs_of_serving(spec: RunSpec) -> Iterator[NamedInput]:
    """What a served application reads beside its own model."""
    if spec.serve is None:
        return
    for name, further in spec.serve.models.items():
        yield NamedInput(f"serve.models.{name}.base", further.base, is_reference=True)
    if spec.serve.auth is not None and spec.serve.auth.keys_file is not None:
        yield NamedInput("serve.auth.keys_file", spec.serve.auth.keys_file)
