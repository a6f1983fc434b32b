"""What one rank adds to a checkpoint, and its copy on the CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from fastserve_ray.training.checkpoint.files import write_json, write_tensors
from fastserve_ray.training.checkpoint.names import FORMAT, STATE_FILE, part_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    import torch
    from pydantic import JsonValue

    from fastserve_ray.training.checkpoint.place import Place

WEIGHT = "weight"
"""Kind of the values of a trained parameter, float32 where the strategy keeps such a copy. Other kinds are the names
under which the optimizer keeps its state: ``exp_avg``, ``exp_avg_sq``, and ``step``, which has no dimensions."""
BUFFER = "buffer"
"""Kind of what a module keeps besides parameters; in its own dtype."""


@dataclass(frozen=True)
class Slice:
    """Some elements of a parameter, or of the optimizer's state of it."""

    kind: str
    name: str
    """Of the parameter in the unwrapped model."""
    place: Place
    values: torch.Tensor
    """As many elements as ``place`` has, in any shape. Of slices from an iterator it may be a view of live memory that
    stays valid until the next one is asked for."""


@dataclass(frozen=True)
class Snapshot:
    """One rank's part of a checkpoint in memory of its own: training may go on while it is written."""

    rank: int
    num_ranks: int
    slices: tuple[Slice, ...]
    state: Mapping[str, JsonValue]
    """What the run needs besides tensors; that of rank 0 is kept."""

    @classmethod
    def take(cls, slices: Iterable[Slice], state: Mapping[str, JsonValue], *, rank: int, num_ranks: int) -> Snapshot:
        """Copies to the CPU."""
        copies = (replace(part, values=_copy(part.values)) for part in slices if part.place.numel)
        return cls(rank, num_ranks, tuple(copies), dict(state))

    @property
    def num_bytes(self) -> int:
        return sum(part.values.nbytes for part in self.slices)

    def write(self, open_file: Callable[[str], AbstractContextManager[IO[bytes]]]) -> None:
        """Write this part.

        Args:
            open_file: opens a file of the checkpoint's folder by its name, for writing.
        """
        name = part_name(self.rank, self.num_ranks)
        with open_file(f"{name}.safetensors") as file:
            size = write_tensors(file, [part.values for part in self.slices])
        records: list[JsonValue] = [
            {"kind": part.kind, "name": part.name, **part.place.to_json()} for part in self.slices
        ]
        write_json(open_file, f"{name}.json", {"format": FORMAT, "bytes": size, "slices": records})
        if self.rank == 0:
            write_json(open_file, STATE_FILE, {**self.state, "format": FORMAT, "parts": self.num_ranks})

    def write_folder(self, folder: Path) -> None:
        """Write this part to a local folder, made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        self.write(lambda name: (folder / name).open("wb"))


def _copy(values: torch.Tensor) -> torch.Tensor:
    return values.detach().reshape(-1).to("cpu", copy=True)
