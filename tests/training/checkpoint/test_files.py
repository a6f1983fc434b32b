"""The files of a checkpoint."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from fastserve_ray.errors import StorageError, TrainingError
from fastserve_ray.training.checkpoint.names import is_complete
from fastserve_ray.training.checkpoint.place import Place
from fastserve_ray.training.checkpoint.reader import CheckpointReader
from fastserve_ray.training.checkpoint.slices import BUFFER, WEIGHT, Slice, Snapshot

if TYPE_CHECKING:
    from pathlib import Path

WHOLE = torch.arange(12.0).reshape(3, 4)


def snapshot(rank: int, num_ranks: int) -> Snapshot:
    place = Place.whole(WHOLE.shape).share(rank, num_ranks)
    slices = [Slice(WEIGHT, "layer.weight", place, place.cut(WHOLE))]
    if rank == 0:
        slices.append(Slice("step", "layer.weight", Place.whole(()), torch.tensor(7.0)))
        slices.append(Slice(BUFFER, "mask", Place.whole((3,)), torch.tensor([True, False, True])))
    return Snapshot.take(slices, {"step": 7, "scale": 2.0}, rank=rank, num_ranks=num_ranks)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for rank in range(3):
        snapshot(rank, 3).write_folder(tmp_path)
    return tmp_path


def test_what_is_written_is_read(folder: Path) -> None:
    reader = CheckpointReader(folder)
    assert (reader.state["step"], reader.state["scale"], reader.num_parts) == (7, 2.0, 3)
    assert reader.names(WEIGHT) == ["layer.weight"]
    assert reader.optimizer_kinds("layer.weight") == ["step"]
    assert reader.full(WEIGHT, "layer.weight").equal(WHOLE)
    assert float(reader.full("step", "layer.weight")) == 7
    assert reader.full(BUFFER, "mask").tolist() == [True, False, True]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_it_is_cut_for_any_number_of_ranks(folder: Path, size: int) -> None:
    reader = CheckpointReader(folder)
    parts = [reader.cut(WEIGHT, "layer.weight", Place.whole(WHOLE.shape).share(rank, size)) for rank in range(size)]
    assert torch.cat(parts).equal(WHOLE.view(-1))


def test_a_snapshot_does_not_change_with_training(tmp_path: Path) -> None:
    live = WHOLE.clone()
    taken = Snapshot.take([Slice(WEIGHT, "w", Place.whole(live.shape), live)], {"step": 1}, rank=0, num_ranks=1)
    live.zero_()
    taken.write_folder(tmp_path)
    assert CheckpointReader(tmp_path).full(WEIGHT, "w").equal(WHOLE)
    assert taken.num_bytes == 48


def test_others_can_read_the_tensors(folder: Path) -> None:
    tensors = load_file(folder / "slices-00000-of-00003.safetensors")
    assert tensors["0"].tolist() == [0, 1, 2, 3]
    assert tensors["2"].dtype == torch.bool


def test_only_all_parts_are_a_checkpoint(folder: Path) -> None:
    names = [path.name for path in folder.iterdir()]
    assert is_complete(names)
    for missing in ("state.json", "slices-00001-of-00003.json"):
        assert not is_complete([name for name in names if name != missing])
    assert is_complete([*names, "slices-00000-of-00004.json"]), "what an earlier, larger group left does not count"
    snapshot(0, 1).write_folder(folder)
    assert CheckpointReader(folder).num_parts == 1


@pytest.mark.parametrize("name", ["slices-00002-of-00003.safetensors", "slices-00001-of-00003.json", "state.json"])
def test_a_file_that_was_cut_short_is_an_error(folder: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:-1])
    with pytest.raises(StorageError, match="checkpoint"):
        CheckpointReader(folder)


def test_another_format_is_refused(folder: Path) -> None:
    state = json.loads((folder / "state.json").read_text())
    (folder / "state.json").write_text(json.dumps({**state, "format": 0}))
    with pytest.raises(StorageError, match="another format"):
        CheckpointReader(folder)


def test_another_model_is_an_error_with_its_name(folder: Path) -> None:
    reader = CheckpointReader(folder)
    with pytest.raises(TrainingError, match=r"layer\.bias"):
        reader.full(WEIGHT, "layer.bias")
    with pytest.raises(TrainingError, match=r"another shape of layer\.weight"):
        reader.cut(WEIGHT, "layer.weight", Place.whole((4, 4)))
