"""A model as pieces that the torch engine reads in place, for replicas that share one copy of the weights.

The weights are kept as the engine wants them: its linear layers packed into panels (`linears.py`), in int8 where the
model or the engine has it so. Packing is what a replica would otherwise do alone, into memory of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastserve_ray.engines.table import check_model
from fastserve_ray.engines.torch.linears import layout, pack_linears, quantize_output_layer
from fastserve_ray.engines.torch.streamed import LayerStream, StreamedLayer
from fastserve_ray.errors import EngineError
from fastserve_ray.models.layers import replace_layer
from fastserve_ray.models.pieces import Piece, put_together, take_apart

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from fastserve_ray.engines.torch.streamed import ReadLayer
    from fastserve_ray.models.pieces import Outline
    from fastserve_ray.models.pooling import Pooling
    from fastserve_ray.spec.model import TaskName

ROOT = ""
"""Name of the piece that holds all but the layers."""


@dataclass(frozen=True)
class ModelBuilder:
    """Reads, prepares and cuts a model; see `weights.server.Builder`.

    Reading maps the files, and each piece is prepared when its turn comes: beside the mapped pages that are in use,
    one piece is in memory at a time.
    """

    folder: Callable[[], str]
    """Where the model is on this node; may have to fetch it."""
    task: TaskName
    dtype: str = "auto"
    int8_output_layer: bool = False
    on_gpu: bool = False
    """Whether the engine runs on a GPU, which wants its linear layers as they are."""

    def pieces(self, shard: int, num_shards: int) -> Iterator[Piece]:
        """Those of one shard; see `cut_apart`.

        Raises:
            ModelError: the model cannot be read, or its structure cannot be pickled.
            EngineError: it has no output layer that int8 can hold.
        """
        from fastserve_ray.models.loading import load_pretrained

        folder = self.folder()
        check_model(folder, self.task)
        loaded = load_pretrained(folder, self.task, dtype=self.dtype)
        packs = self.task == "text-generation" and not self.on_gpu
        whole = Whole.of(loaded.model, loaded.tokenizer, packs=packs, pooling=loaded.pooling)
        yield from cut_apart(whole, shard, num_shards, load=partial(self._change, loaded.model))

    def _change(self, model: Any, name: str) -> None:
        if name == ROOT and self.int8_output_layer:
            quantize_output_layer(model)


@dataclass(frozen=True)
class Whole:
    """A model with all that an engine needs of it; without its layers what the first piece holds."""

    model: Any
    tokenizer: Any
    pooling: Pooling | None
    """Of an embedding model."""
    layout: tuple[int, int] | None
    """Of the processor that packed the model; None when it is not packed."""
    configs: list[Any]
    """That the layers share with the model."""

    @classmethod
    def of(cls, model: Any, tokenizer: Any, *, packs: bool, pooling: Pooling | None = None) -> Whole:
        """Of a model that is still to be packed, if it is."""
        return cls(model, tokenizer, pooling, layout() if packs else None, _configs(model))


def cut_apart(
    whole: Whole, shard: int, num_shards: int, *, load: Callable[[str], None], shared: Sequence[object] = ()
) -> Iterator[Piece]:
    """The pieces of one shard of ``whole``, which is used up: the layers are shared out by size, and the first shard
    has the rest of the model too.

    Args:
        load: called with the name of a layer, or with `ROOT`, before what it names is prepared.
        shared: what the one who puts the pieces together has of its own; see `assemble`.
    """
    model = whole.model
    names = layer_names(model)
    shares = share_out([_num_bytes(model.get_submodule(name)) for name in names], num_shards, _num_bytes(model))
    for at in shares[shard]:
        load(names[at])
        _prepare(whole, names[at])
        yield take_apart(names[at], model.get_submodule(names[at]), (*shared, *whole.configs))
        replace_layer(model, names[at], nn.Identity())
    if shard == 0:
        for name in names:
            replace_layer(model, name, nn.Identity())
        load(ROOT)
        _prepare(whole, ROOT)
        yield take_apart(ROOT, whole, shared)


def _prepare(whole: Whole, name: str) -> None:
    if whole.layout is not None:
        below = whole.model.get_submodule(name).named_modules(prefix=name)
        pack_linears(whole.model, [path for path, _ in below])


def assemble(pieces: Sequence[Piece], device: torch.device, shared: Sequence[object] = ()) -> Whole:
    """The model of all ``pieces`` on ``device``, on a CPU over their tensors in place.

    Args:
        shared: in place of what `cut_apart` was given.

    Raises:
        EngineError: the model was prepared for another kind of processor.
    """
    by_name = {piece.name: piece for piece in pieces}
    root = _root_of(by_name.pop(ROOT), device, shared)
    for name, piece in by_name.items():
        replace_layer(root.model, name, _whole(piece, (*shared, *root.configs)))
    root.model.eval().to(device)
    return root


def _root_of(piece: Piece, device: torch.device, shared: Sequence[object] = ()) -> Whole:
    root: Whole = _whole(piece, shared)
    if root.layout is not None and (root.layout != layout() or device.type != "cpu"):
        raise EngineError(
            "the stored weights are packed for another kind of processor",
            value=f"{root.layout}",
            allowed=f"{layout()} on a CPU, which this node runs",
            key="serve.weights.store",
            hint="serve on nodes of one kind, or set store: off",
        )
    return root


def assemble_streamed(root: Piece, layers: Sequence[Outline], read: ReadLayer) -> tuple[Any, Any, LayerStream]:
    """The model over the piece of `ROOT` in place, on a CPU; its layers' tensors come when they are needed.

    Args:
        read: gives the tensors of a layer.

    Returns:
        model, tokenizer, and the stream to close after use.

    Raises:
        EngineError: the model was prepared for another kind of processor, or its layers are not one list.
    """
    whole = _root_of(root, torch.device("cpu"))
    ordered = sorted(layers, key=lambda outline: int(outline.name.rpartition(".")[2]))
    if not ordered:
        raise EngineError(
            "this model's layers cannot be streamed, since they are not one list",
            value=type(whole.model).__name__,
            key="serve.weights.stream",
        )
    stream = LayerStream(read, [outline.name for outline in ordered])
    for at, outline in enumerate(ordered):
        replace_layer(whole.model, outline.name, StreamedLayer(outline, whole.configs, at, stream))
    return whole.model.eval(), whole.tokenizer, stream


def _whole(piece: Piece, shared: Sequence[Any] = ()) -> Any:
    return put_together(piece.structure, piece.tensors, shared)


def layer_names(model: Any) -> list[str]:
    """Names of the model's layers, in order; none for a model whose layers are not one list."""
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return [f"{name}.{at}" for at in range(len(module))]
    return []


def share_out(sizes: Sequence[int], num_shards: int, total: int) -> list[list[int]]:
    """Numbers of the layers that each shard has, by size, the largest first to the one that has least so far.

    Args:
        sizes: bytes of the layers.
        total: bytes of the model; what is not in the layers belongs to the first shard.
    """
    loads = [total - sum(sizes), *[0] * (num_shards - 1)]
    shares: list[list[int]] = [[] for _ in loads]
    for at in sorted(range(len(sizes)), key=lambda at: (-sizes[at], at)):
        least = loads.index(min(loads))
        loads[least] += sizes[at]
        shares[least].append(at)
    return [sorted(share) for share in shares]


def _configs(model: Any) -> list[Any]:
    """The configurations that the modules share, each once."""
    found: dict[int, Any] = {}
    for module in model.modules():
        config = getattr(module, "config", None)
        if config is not None:
            for each in (config, config.get_text_config()):
                found.setdefault(id(each), each)
    return list(found.values())


def _num_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensors in (module.parameters(), module.buffers()) for tensor in tensors)
