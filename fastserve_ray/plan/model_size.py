"""How large the model of a spec is: from ``model.config``, from a folder's headers, or unknown with a reason."""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.plan.architecture import Architecture, read_architecture
from fastserve_ray.plan.inputs import reference_kind
from fastserve_ray.plan.parameters import count_parameters
from fastserve_ray.spec.model import TokenizerSpec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from fastserve_ray.spec.model import ModelSpec

_MAX_HEADER_BYTES = 100_000_000
"""The format's own limit on a safetensors header."""


@dataclass(frozen=True)
class ModelSize:
    """What could be found out without loading the model."""

    num_parameters: int | None
    architecture: Architecture | None
    reason: str | None = None
    """Why something is None."""


def model_size(model: ModelSpec) -> ModelSize:
    """Size of ``model.config`` or ``model.base``; reads file headers at most, never a weight."""
    if model.config is not None:
        return _of_config(model)
    folder = local_folder(model)
    if folder is None:
        return ModelSize(None, None, f"{model.base} is not on this machine yet")
    return _of_folder(folder, model)


def _of_config(model: ModelSpec) -> ModelSize:
    config = dict(model.config or {})
    tokenizer = TokenizerSpec() if model.tokenizer is None else model.tokenizer
    if "vocab_size" not in config:
        if isinstance(tokenizer, str):
            return ModelSize(None, None, f"the vocabulary of {tokenizer} is known once it is loaded")
        config["vocab_size"] = tokenizer.vocab_size
    return _counted(config, model)


def _counted(config: Mapping[str, object], model: ModelSpec) -> ModelSize:
    architecture = read_architecture(config)
    if architecture is None:
        return ModelSize(None, None, f"models of type {config.get('model_type')} are not counted without loading them")
    labels = model.num_labels or 2
    return ModelSize(count_parameters(architecture, model.task, labels), architecture)


def _of_folder(folder: Path, model: ModelSpec) -> ModelSize:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes = list(_tensor_shapes(folder))
    except (OSError, ValueError) as error:
        return ModelSize(None, None, f"{model.base} cannot be read: {error}")
    if not isinstance(config, dict):
        return ModelSize(None, None, f"the config.json of {model.base} is not a mapping")
    if not shapes:
        return _counted(config, model)
    total = sum(math.prod(shape) for shape in shapes)
    return ModelSize(total, read_architecture(config))


def _tensor_shapes(folder: Path) -> Iterable[list[int]]:
    """Shapes in the headers of all safetensors files: 8 bytes of length (little-endian), then JSON."""
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length)) if length <= _MAX_HEADER_BYTES else None
        if not isinstance(header, dict):
            raise ValueError(f"{path.name} is not a safetensors file")
        yield from (tensor["shape"] for name, tensor in header.items() if name != "__metadata__")


def local_folder(model: ModelSpec) -> Path | None:
    """Where ``model.base`` is on this machine: its folder, or the hub's cache; None when it is not here yet."""
    base = str(model.base)
    kind = reference_kind(base)
    if kind == "folder":
        return Path(base).expanduser()
    return _hub_cache(base, model.revision or "main") if kind == "hub" else None


def _hub_cache(repository: str, revision: str) -> Path | None:
    """The snapshot of a hub model in huggingface_hub's cache, if it was ever downloaded."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub")) / f"models--{repository.replace('/', '--')}"
    reference = cache / "refs" / revision
    commit = reference.read_text(encoding="utf-8").strip() if reference.is_file() else revision
    snapshot = cache / "snapshots" / commit
    return snapshot if (snapshot / "config.json").is_file() else None
