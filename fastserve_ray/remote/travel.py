"""What travels with a job: the YAML file and the local files that it names, as they lie below the working directory.

What stays behind is refused, unless the nodes see the files of this machine too. The times of change of files are part
of an artifact's name, and Ray's packages lose them, so they travel in a file of their own (`TIMES`).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import Problem, SpecError, UsageError
from fastserve_ray.plan.inputs import is_uri, list_input, local_path, reference_kind
from fastserve_ray.plan.named_inputs import NamedInput, inputs_of_run, inputs_of_serving
from fastserve_ray.plan.words import size_in_words

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from fastserve_ray.spec.run import RunSpec

TIMES = ".fastserve-times.json"
"""In the package: nanoseconds of the last change by path."""
MAX_BYTES = 400 * 2**20
"""Ray keeps a package in the head's memory and takes 512 MiB at most."""
_CLASS = re.compile(r"^(\w+)(?:\.\w+)*:\w+$")
SEEN = "data in a storage (s3://...) that every node reaches; --shared-paths if every node has this very path"


@dataclass(frozen=True)
class Luggage:
    """What a job takes along."""

    folder: Path
    """The working directory here."""
    files: tuple[Path, ...]
    """Relative to ``folder``."""
    sets: tuple[str, ...]
    """``--set`` of keys whose paths are others there."""

    @property
    def num_bytes(self) -> int:
        return sum((self.folder / file).stat().st_size for file in self.files)

    def pack(self, folder: Path) -> None:
        """Copy into an empty folder, which Ray makes a package of.

        Raises:
            UsageError: it is too large to travel.
        """
        if self.num_bytes > MAX_BYTES:
            raise UsageError(
                "the files that this job needs are too large to travel with it",
                value=size_in_words(self.num_bytes),
                allowed=f"{size_in_words(MAX_BYTES)} in all",
                hint=f"put {SEEN}",
            )
        times = {}
        for file in self.files:
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(self.folder / file, folder / file)
            times[str(file)] = (self.folder / file).stat().st_mtime_ns
        (folder / TIMES).write_text(json.dumps(times, sort_keys=True), encoding="utf-8")


def restore_times(folder: Path) -> None:
    """Give unpacked files the times that they had where the job was submitted. A folder that was not packed here is
    left as it is."""
    if not (folder / TIMES).is_file():
        return
    for name, nanoseconds in json.loads((folder / TIMES).read_text(encoding="utf-8")).items():
        os.utime(folder / name, ns=(nanoseconds, nanoseconds))


def pack_list(spec_file: Path, spec: RunSpec, *, sees_files: bool) -> Luggage:
    """What a job of this spec takes along from the working directory.

    Args:
        sees_files: every node has the files of this machine at the same paths.

    Raises:
        SpecError: with a problem for each path that the cluster cannot see.
        UsageError: the YAML file is not below the working directory.
    """
    here = Path.cwd().resolve()
    if not _is_below(spec_file, here):
        raise UsageError(
            "the file must lie in the working directory, which is what travels with a job",
            value=str(spec_file),
            allowed=f"a file below {here}",
            hint=f"cd {spec_file.resolve().parent} first",
        )
    files = {spec_file.resolve().relative_to(here), *_modules(spec, here), *_working_folder(spec, here)}
    sets: list[str] = []
    problems: list[Problem] = []
    for key, given in _local_paths([*inputs_of_run(spec), *inputs_of_serving(spec)]):
        if _is_below(Path(given), here):
            files |= {Path(file.uri).resolve().relative_to(here) for file in list_input(given)}
            relative = os.path.relpath(Path(given).expanduser().absolute(), here)
            sets += [f"{key}={json.dumps(relative)}"] * (relative != given)
        elif sees_files:
            sets += [f"{key}={json.dumps(_absolute(given))}"]
        else:
            problems.append(_unseen(key, given))
    storage, problem = _storage(spec, sees_files=sees_files)
    sets += storage
    problems += problem
    if problems:
        raise SpecError(problems)
    return Luggage(here, tuple(sorted(files)), tuple(sets))


def served_paths(spec: RunSpec, model: str, *, sees_files: bool) -> tuple[dict[str, object], str]:
    """Overrides that make every path absolute which a served application reads, and the model likewise: Serve's
    processes work in a folder of their own, and nothing travels with an application.

    Raises:
        SpecError: with a problem for each path that the cluster cannot see.
    """
    paths = list(_local_paths([*inputs_of_serving(spec), NamedInput("storage", spec.storage)]))
    is_folder = reference_kind(model) == "folder"
    problems = [] if sees_files else [_unseen(key, path) for key, path in paths]
    if is_folder and not sees_files:
        problems.append(_unseen("model", model))
    if problems:
        raise SpecError(problems)
    return {key: _absolute(path) for key, path in paths}, _absolute(model) if is_folder else model


def _unseen(key: str, path: str) -> Problem:
    return Problem(key, "the cluster cannot see this path of this machine", path, allowed=SEEN)


def _absolute(path: str) -> str:
    return str(Path(path).expanduser().absolute())


def _local_paths(inputs: Iterable[NamedInput]) -> Iterator[tuple[str, str]]:
    """Keys and paths of what lies on this machine's disk."""
    for key, value, is_reference in inputs:
        path = local_path(value)
        if path is not None and (not is_reference or reference_kind(value) in ("folder", "uri")):
            yield key, path


def _modules(spec: RunSpec, here: Path) -> set[Path]:
    """Python files of the user's own ``package.module:Class``, where their package lies in the working directory."""
    names = {found[1] for text in _strings(spec.model_dump(mode="json")) if (found := _CLASS.match(text))}
    packages = [file for name in names for file in (here / name).rglob("*.py")]
    modules = [here / f"{name}.py" for name in names if (here / f"{name}.py").is_file()]
    return {file.relative_to(here) for file in [*packages, *modules]}


def _working_folder(spec: RunSpec, here: Path) -> set[Path]:
    """All files of ``cluster.runtime_env.working_dir``.

    Raises:
        UsageError: it is a URI, or not below the working directory.
    """
    given = spec.cluster.runtime_env.working_dir
    if given is None:
        return set()
    if is_uri(given) or not _is_below(Path(given), here):
        raise UsageError(
            "a job's folder is the working directory that it is submitted from",
            value=given,
            allowed="a folder below the working directory, all of which then travels; or none",
            key="cluster.runtime_env.working_dir",
        )
    return {Path(file.uri).resolve().relative_to(here) for file in list_input(given)}


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for entry in value.values():
            yield from _strings(entry)
    elif isinstance(value, list):
        for entry in value:
            yield from _strings(entry)


def _storage(spec: RunSpec, *, sees_files: bool) -> tuple[list[str], list[Problem]]:
    """A relative storage would be in the job's own folder, which Ray deletes."""
    path = local_path(spec.storage)
    if path is None:
        return [], []
    if not sees_files:
        return [], [_unseen("storage", spec.storage)]
    return [f"storage={json.dumps(_absolute(path))}"], []


def _is_below(path: Path, folder: Path) -> bool:
    """A glob is where its fixed part is."""
    fixed = re.split(r"[*?\[]", str(path.expanduser().absolute()))[0]
    return Path(fixed).resolve().is_relative_to(folder)


def unset_variables(text: str, given: Sequence[str]) -> list[str]:
    """Environment variables that a file reads without a default, and that are not ``given`` to the job."""
    names = dict.fromkeys(re.findall(r"\$\{env:(\w+)\}", text))
    return [name for name in names if name not in given]
