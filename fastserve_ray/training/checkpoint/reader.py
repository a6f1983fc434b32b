"""Reads a checkpoint, whatever wrote it."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from safetensors import safe_open

from fastserve_ray.errors import StorageError, TrainingError
from fastserve_ray.training.checkpoint.names import FORMAT, STATE_FILE, part_name
from fastserve_ray.training.checkpoint.place import Place
from fastserve_ray.training.checkpoint.slices import BUFFER, WEIGHT

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class _Stored:
    """One slice in one file."""

    part: int
    key: str
    place: Place


class CheckpointReader:
    """All ranks' slices of a local folder, found by kind and name. Files are mapped: only what is asked for is read.

    Raises:
        StorageError: a part is missing or cut short, or of an unknown format.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.state: dict[str, Any] = self._read_json(STATE_FILE)
        self._slices: dict[tuple[str, str], list[_Stored]] = defaultdict(list)
        for part in range(self.num_parts):
            self._read_index(part)

    @property
    def num_parts(self) -> int:
        """How many ranks wrote it."""
        return int(self.state["parts"])

    def names(self, kind: str) -> list[str]:
        """Under which it holds slices of ``kind``."""
        return sorted(name for other, name in self._slices if other == kind)

    def optimizer_kinds(self, name: str) -> list[str]:
        """Kinds of optimizer state kept for a parameter; none when it never had a gradient."""
        return self._optimizer_kinds.get(name, [])

    @cached_property
    def _optimizer_kinds(self) -> dict[str, list[str]]:
        kinds: dict[str, list[str]] = defaultdict(list)
        for kind, name in self._slices:
            if kind not in (WEIGHT, BUFFER):
                kinds[name].append(kind)
        return kinds

    def full(self, kind: str, name: str) -> torch.Tensor:
        """A whole parameter, or the optimizer's state of it, on the CPU.

        Raises:
            TrainingError: it is not in the checkpoint.
        """
        stored = self._find(kind, name)
        shape = stored[0].place.shape
        if stored[0].place == Place.whole(shape):
            return self._values(stored[0]).view(shape)
        whole = torch.empty(shape, dtype=self._values(stored[0]).dtype)
        for one in stored:
            one.place.paste(whole, self._values(one))
        return whole

    def cut(self, kind: str, name: str, place: Place) -> torch.Tensor:
        """The elements of ``place``, one-dimensional, on the CPU.

        Raises:
            TrainingError: it is not in the checkpoint, or has another shape there.
        """
        stored = self._find(kind, name)
        if stored[0].place.shape != place.shape:
            raise TrainingError(
                f"the checkpoint holds another shape of {name}",
                value=str(stored[0].place.shape),
                allowed=str(place.shape),
                hint=f"was the model changed? delete {self._folder.name} to train from the beginning",
            )
        same = next((one for one in stored if one.place == place), None)
        return self._values(same) if same is not None else place.cut(self.full(kind, name))

    def _find(self, kind: str, name: str) -> list[_Stored]:
        stored = self._slices.get((kind, name))
        if not stored:
            raise TrainingError(
                f"the checkpoint {self._folder.name} does not hold {kind} of {name}",
                hint="was the model changed? delete the checkpoint to train from the beginning",
            )
        return stored

    def _values(self, stored: _Stored) -> torch.Tensor:
        tensor: torch.Tensor = self._files[stored.part].get_tensor(stored.key)
        return tensor

    @cached_property
    def _files(self) -> list[Any]:
        return [
            safe_open(self._folder / f"{part_name(part, self.num_parts)}.safetensors", "pt")
            for part in range(self.num_parts)
        ]

    def _read_index(self, part: int) -> None:
        name = part_name(part, self.num_parts)
        index = self._read_json(f"{name}.json")
        file = self._folder / f"{name}.safetensors"
        if not file.exists() or file.stat().st_size != index["bytes"]:
            raise StorageError("a file of a checkpoint is missing or cut short", value=file.name, key="storage")
        for number, record in enumerate(index["slices"]):
            stored = _Stored(part, str(number), Place.from_json(record))
            self._slices[record["kind"], record["name"]].append(stored)

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            value: dict[str, Any] = json.loads((self._folder / name).read_bytes())
        except (OSError, ValueError) as error:
            raise StorageError(
                "a file of a checkpoint cannot be read", value=f"{name}: {error}", key="storage"
            ) from error
        if value.get("format") != FORMAT:
            raise StorageError("a checkpoint has another format", value=str(value.get("format")), allowed=str(FORMAT))
        return value
