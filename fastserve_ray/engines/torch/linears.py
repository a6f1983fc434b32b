"""Linear layers at the machine's speed for the few rows of a decode step, on CPUs.

`prepare_linears` replaces the layers of a model that an engine has taken over by ones that keep their weights in
panels and run our own kernels (`native/linears.cpp`). Weights are held once: a packed layer gives up the original,
and an embedding that shares its weight with the output layer reads its rows from the panels. A row's result is the
same bits whatever the number of rows, so what a request gets does not depend on its neighbours. docs/adr/0005-cpu-
linears.md has the figures.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from fastserve_ray.engines.torch.mapped import MappedWeights
from fastserve_ray.errors import EngineError
from fastserve_ray.models.layers import is_linear, replace_layer, weight_by_output
from fastserve_ray.models.quantized import Int8DynamicLinear, Int8Linear, Int8WeightOnlyLinear
from fastserve_ray.native.library import load_library

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Iterable

ROWS_AT_ONCE = 512
"""Rows of one call: more of them, with their outputs, leave the caches while the weights pass by."""
UNSIGNED_GROUP = 4
"""Values that the instruction for unsigned by signed bytes multiplies at once (VNNI)."""


@torch.no_grad()
def quantize_output_layer(model: Any) -> None:
    """Put an int8 output layer (`Int8DynamicLinear`) in place of the model's own, and where the embedding has the same
    weight, let it read its rows from there. Before `prepare_linears`.

    Raises:
        EngineError: the output layer is no plain linear layer.
    """
    head = model.get_output_embeddings()
    if type(head) is not nn.Linear:
        raise EngineError(
            "the output layer of this model cannot be held in int8",
            value=type(head).__name__,
            allowed="a plain linear layer",
            key="serve.engine.int8_output_layer",
        )
    layer = Int8DynamicLinear.from_float(head.weight.float(), head.bias)
    for name, module in list(model.named_modules()):
        if module is head:
            replace_layer(model, name, layer)
    for name, embedding in _embeddings_by_weight(model).get(id(head.weight), []):
        replace_layer(model, name, SharedEmbedding(layer, embedding, head.weight.dtype))


@torch.no_grad()
def prepare_linears(model: nn.Module) -> int:
    """Replace what can be replaced of ``model``, in place: float32 and int8 linear layers on the CPU.

    Returns:
        the number of layers replaced; 0 where there are no kernels for this processor.
    """
    if load_library() is None:
        return 0
    num_replaced: int = pack_linears(model, [name for name, _ in model.named_modules()])
    _let_go_of_files(model)
    return num_replaced


@torch.no_grad()
def pack_linears(model: nn.Module, names: Iterable[str]) -> int:
    """The part of `prepare_linears` that replaces; of the modules ``names`` only, so that a model can be prepared
    piece by piece."""
    library = load_library()
    if library is None:
        return 0
    embeddings = _embeddings_by_weight(model)
    shared = {id(each.layer): each for each in model.modules() if isinstance(each, SharedEmbedding)}
    mapped = MappedWeights()
    num_users = Counter(id(weight) for module in model.modules() for weight in module.parameters(recurse=False))
    num_replaced = 0
    # by name, so that nothing here keeps a layer that was replaced, and its memory serves the next ones
    for name in names:
        module = model.get_submodule(name)
        layer = _packed(module, library)
        if layer is None:
            continue
        weight = module.get_parameter("weight") if not isinstance(module, Int8Linear) else None
        replace_layer(model, name, layer)
        num_replaced += 1
        if isinstance(layer, PackedInt8Linear) and id(module) in shared:
            shared[id(module)].layer = layer
        if weight is not None and isinstance(layer, PackedLinear):
            for embedding_name, embedding in embeddings.pop(id(weight), []):
                replace_layer(model, embedding_name, SharedEmbedding(layer, embedding, torch.float32))
                num_users[id(weight)] -= 1
        if weight is not None and num_users[id(weight)] == 1:
            mapped.release(weight)
    return num_replaced


def layout() -> tuple[int, int] | None:
    """What decides how panels lie in memory: outputs of a panel, and values side by side in int8. None where layers
    are not packed. Packed layers run only where this is the same."""
    library = load_library()
    return None if library is None else (int(library.fs_panel()), int(library.fs_group()))


def _let_go_of_files(model: nn.Module) -> None:
    """What is left (norms, biases) may still be views into the mapped file, and would keep all of its pages."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()


def _embeddings_by_weight(model: nn.Module) -> dict[int, list[tuple[str, nn.Embedding]]]:
    """Embeddings that another module may share the weight of. Subclasses do more than look up, and stay."""
    found: dict[int, list[tuple[str, nn.Embedding]]] = {}
    for name, module in model.named_modules():
        if type(module) is nn.Embedding:
            found.setdefault(id(module.weight), []).append((name, module))
    return found


def _packed(module: nn.Module, library: ctypes.CDLL) -> nn.Module | None:
    """The faster twin of ``module``, or None. What others have hooked into stays as it is."""
    if module._forward_hooks or module._forward_pre_hooks:
        return None
    if isinstance(module, Int8DynamicLinear) and _is_on_cpu(module.weight):
        return PackedInt8Linear(module, library)
    if isinstance(module, Int8WeightOnlyLinear) and _is_on_cpu(module.weight):
        return PackedMixedLinear(module, library)
    if not is_linear(module) or (isinstance(module, nn.Linear) and type(module) is not nn.Linear):
        return None
    weight = module.get_parameter("weight")
    return PackedLinear(module, library) if _is_on_cpu(weight) and weight.dtype == torch.float32 else None


def _is_on_cpu(tensor: torch.Tensor) -> bool:
    return bool(tensor.device.type == "cpu")


class PackedLayer(nn.Module):
    """What the packed layers share: shapes, bias, and the way of rows in and out.

    Attributes:
        panels: weights as [panel][input][output of the panel]; outputs that are not there are zeros.
    """

    panels: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: torch.Tensor | None, library: ctypes.CDLL) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self._library = library
        self._panel = int(library.fs_panel())
        self._num_panels = -(-out_features // self._panel)
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(..., in_features) to (..., out_features)."""
        rows = inputs.reshape(-1, self.in_features).float().contiguous()
        outputs = torch.empty(rows.shape[0], self.out_features)
        for part, place in zip(rows.split(ROWS_AT_ONCE), outputs.split(ROWS_AT_ONCE), strict=True):
            if len(part):
                self._multiply(part, place)
        return outputs.view(*inputs.shape[:-1], self.out_features).to(inputs.dtype)

    def _multiply(self, rows: torch.Tensor, outputs: torch.Tensor) -> None:
        raise NotImplementedError

    def _sizes(self, rows: torch.Tensor) -> tuple[int, int, int, int]:
        return rows.shape[0], self.out_features, self.in_features, torch.get_num_threads()

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def _address(tensor: torch.Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


class PackedLinear(PackedLayer):
    """``nn.Linear`` or GPT-2's ``Conv1D`` in float32."""

    def __init__(self, module: nn.Module, library: ctypes.CDLL) -> None:
        weight = weight_by_output(module).detach()
        bias = module.get_parameter("bias") if getattr(module, "bias", None) is not None else None
        super().__init__(weight.shape[1], weight.shape[0], bias, library)
        panels = torch.empty(self._num_panels, self.in_features, self._panel)
        library.fs_pack_float(
            weight.data_ptr(), *weight.stride(), *weight.shape, panels.data_ptr(), torch.get_num_threads()
        )
        self.register_buffer("panels", panels)

    @property
    def weight(self) -> torch.Tensor:
        """(out_features, in_features), a copy: some models ask for its type."""
        return self.rows_of(torch.arange(self.out_features))

    def rows_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Rows of the weight: (...) int64 to (..., in_features)."""
        return self.panels[outputs // self._panel, :, outputs % self._panel]

    def _multiply(self, rows: torch.Tensor, outputs: torch.Tensor) -> None:
        self._library.fs_float(
            rows.data_ptr(), self.panels.data_ptr(), _address(self.bias), outputs.data_ptr(), *self._sizes(rows)
        )


class SharedEmbedding(nn.Module):
    """An embedding whose weight is that of the output layer."""

    def __init__(self, layer: RowsOf | Int8Linear, embedding: nn.Embedding, dtype: torch.dtype) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = embedding.num_embeddings, embedding.embedding_dim
        self._layer = [layer]
        """In a list, so that the layer is not this module's too."""
        self._dtype = dtype

    @property
    def layer(self) -> RowsOf | Int8Linear:
        """The output layer."""
        return self._layer[0]

    @layer.setter
    def layer(self, layer: RowsOf) -> None:
        self._layer[0] = layer

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """(...) int64 to (..., embedding_dim)."""
        layer = self.layer
        if isinstance(layer, Int8Linear):
            return (layer.weight[ids] * layer.scale[ids, None]).to(self._dtype)
        return layer.rows_of(ids).to(self._dtype)


class RowsOf(Protocol):
    """A packed layer whose weight can be looked up."""

    def rows_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Rows of the weight: (...) int64 to (..., in_features)."""
        ...


class _PackedInt8(PackedLayer):
    """Int8 weights and a scale for each output."""

    scale: torch.Tensor

    def __init__(self, module: Int8Linear, group: int, library: ctypes.CDLL) -> None:
        super().__init__(module.in_features, module.out_features, module.bias, library)
        weight = module.weight.contiguous()
        inputs = -(-self.in_features // group) * group
        panels = torch.empty(self._num_panels, inputs, self._panel, dtype=torch.int8)
        library.fs_pack_int8(weight.data_ptr(), *weight.shape, group, panels.data_ptr(), torch.get_num_threads())
        self.register_buffer("panels", panels)
        self.register_buffer("scale", module.scale.float().contiguous())


class PackedMixedLinear(_PackedInt8):
    """`Int8WeightOnlyLinear`, with activations and sums in float32 instead of bfloat16."""

    def __init__(self, module: Int8WeightOnlyLinear, library: ctypes.CDLL) -> None:
        super().__init__(module, 1, library)

    def _multiply(self, rows: torch.Tensor, outputs: torch.Tensor) -> None:
        self._library.fs_mixed(
            rows.data_ptr(),
            self.panels.data_ptr(),
            self.scale.data_ptr(),
            _address(self.bias),
            outputs.data_ptr(),
            *self._sizes(rows),
        )


class PackedInt8Linear(_PackedInt8):
    """`Int8DynamicLinear`, to the same bits."""

    corrections: torch.Tensor
    """(panels * outputs of a panel,) int32: what the offset of unsigned inputs adds to each sum, where the processor
    multiplies unsigned by signed."""

    def __init__(self, module: Int8DynamicLinear, library: ctypes.CDLL) -> None:
        group = int(library.fs_group())
        super().__init__(module, group, library)
        corrections = torch.zeros(self._num_panels * self._panel, dtype=torch.int32)
        if group == UNSIGNED_GROUP:
            corrections[: self.out_features] = 128 * module.weight.sum(dim=1, dtype=torch.int32)
        self.register_buffer("corrections", corrections)
        self._group = group

    def rows_of(self, outputs: torch.Tensor) -> torch.Tensor:
        """Rows of the weight, times their scales: (...) int64 to (..., in_features), float32."""
        steps = self.panels.view(self._num_panels, -1, self._panel, self._group)
        rows = steps[outputs // self._panel, :, outputs % self._panel].flatten(-2)[..., : self.in_features]
        return rows * self.scale[outputs, None]

    def _multiply(self, rows: torch.Tensor, outputs: torch.Tensor) -> None:
        self._library.fs_int8(
            rows.data_ptr(),
            self.panels.data_ptr(),
            self.scale.data_ptr(),
            self.corrections.data_ptr(),
            _address(self.bias),
            outputs.data_ptr(),
            *self._sizes(rows),
        )
