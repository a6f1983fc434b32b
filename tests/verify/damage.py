"""Models that have lost what they learned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from pathlib import Path


def damaged(folder: Path, out: Path) -> Path:
    """A copy whose float matrices are shuffled, and whose int8 ones are too."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    generator = torch.Generator().manual_seed(0)
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in tensors.items():
        if tensor.ndim == 2:
            order = torch.randperm(tensor.numel(), generator=generator)
            tensors[name] = tensor.flatten()[order].view(tensor.shape)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out
