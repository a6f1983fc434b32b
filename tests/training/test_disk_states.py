"""Master weights and moments in a mapped file: they are on the disk, out of memory, and Adam changes them there."""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from fastserve_ray.errors import TrainingError
from fastserve_ray.training.strategies.disk_states import DiskStates

NUMEL = 12_000_000
"""More than 32 MiB, which the allocator gives back to the system at once."""
MEGABYTE = 1_000_000


def adamw(tensors: list[torch.Tensor], *, fused: bool) -> torch.optim.AdamW:
    return torch.optim.AdamW(tensors, lr=0.1, weight_decay=0.1, fused=fused)


def test_adam_on_a_disk_is_adam_and_its_numbers_are_in_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    plain = [torch.randn(1000, requires_grad=True), torch.randn(7, requires_grad=True)]
    mapped = [tensor.detach().clone().requires_grad_() for tensor in plain]
    here, there = adamw(plain, fused=False), adamw(mapped, fused=True)
    states = DiskStates(tmp_path, mapped, there)
    assert states.num_bytes == 12 * 1007
    for _ in range(3):
        for one, other in zip(plain, mapped, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        here.step()
        there.step()
        states.release()
    for one, other in zip(plain, mapped, strict=True):
        assert torch.allclose(one, other, atol=1e-6)
        assert states.holds(other)
        assert torch.allclose(here.state[one]["exp_avg_sq"], there.state[other]["exp_avg_sq"], atol=1e-6)
    assert not states.holds(plain[0])
    first = os.pread(states.file.fileno(), 4 * 1000, 0)
    assert first == mapped[0].detach().numpy().tobytes()
    moments = os.pread(states.file.fileno(), 4 * 1000, 4 * 1000)
    assert moments == there.state[mapped[0]]["exp_avg"].numpy().tobytes()
    assert list(tmp_path.iterdir()) == []


def test_states_leave_the_memory_of_the_process(tmp_path: Path) -> None:
    """16 bytes an element with its gradient, and 4 when the rest is in a file; without temporaries, and after an
    update no page of the file is in the process. A process of its own: an old one takes memory that it has freed."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        pool.submit(hold_states, None, 7).result()  # what torch imports and makes with its first step
        in_memory = pool.submit(hold_states, None).result()
        on_disk = pool.submit(hold_states, tmp_path).result()
    assert in_memory.anonymous == pytest.approx(16 * NUMEL, abs=3 * MEGABYTE)
    assert on_disk.anonymous == pytest.approx(4 * NUMEL, abs=3 * MEGABYTE)
    assert on_disk.mapped_in_update > 11 * NUMEL
    assert on_disk.mapped < 0.5 * NUMEL


class Held(NamedTuple):
    """Bytes that came to the process."""

    anonymous: int
    mapped_in_update: int
    mapped: int


def hold_states(folder: Path | None, numel: int = NUMEL) -> Held:
    """After an update; with states in this folder, or in memory."""
    before = memory()
    master = torch.ones(numel, requires_grad=True)
    optimizer = adamw([master], fused=True)
    states = None if folder is None else DiskStates(folder, [master], optimizer)
    master.grad = torch.ones(numel)
    optimizer.step()
    in_update = memory()
    if states is not None:
        states.release()
    after = memory()
    return Held(
        after["RssAnon"] - before["RssAnon"],
        in_update["RssFile"] - before["RssFile"],
        after["RssFile"] - before["RssFile"],
    )


def memory() -> dict[str, int]:
    """Bytes of this process: anonymous ones, which only swap could take away, and those of mapped files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {line.split(":")[0]: 1024 * int(line.split()[1]) for line in lines if line.startswith("Rss")}


def test_a_disk_without_room_is_an_error_at_the_start(tmp_path: Path) -> None:
    """And not a signal when a page cannot be written later."""
    import resource

    master = torch.zeros(NUMEL, requires_grad=True)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (MEGABYTE, hard))
    try:
        with pytest.raises(TrainingError, match="cannot be kept in this folder") as caught:
            DiskStates(tmp_path, [master], adamw([master], fused=True))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.key == "train.parallel.offload_folder"
    assert list(tmp_path.iterdir()) == []
