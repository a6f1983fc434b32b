"""Decoder layers of the Llama shape in three native calls, on CPUs.

A decode step of a small batch has some thirty operations a layer of a few microseconds each, and transformers' code
around them costs more than they do. `fuse_layers` replaces the layers that it knows by ones that run
`native/decoder.cpp`: norm, queries, keys and values, rotation and the write to the cache in one call; attention of the
rows that decode in a second, over the cache in place; output layer, norm and MLP in a third. Chunks of prompts are
attended by torch as elsewhere. Weights are those of the packed layers (`linears.py`), not copies. Layers of other
families, other types and other devices stay as they are.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from fastserve_ray.engines.torch.attention import current_step
from fastserve_ray.engines.torch.linears import PackedInt8Linear, PackedLayer, PackedLinear, PackedMixedLinear
from fastserve_ray.engines.torch.ragged import RaggedStep
from fastserve_ray.engines.torch.streamed import StreamedLayer
from fastserve_ray.errors import EngineError
from fastserve_ray.native.library import load_library

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.engines.torch.kv_cache import LayerShape

FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
"""Of transformers.models: pre-norm layers with rotated queries and keys and a gated MLP, without anything else."""
ACTIVATIONS = ("silu", "swish")
KINDS: dict[type[PackedLayer], int] = {PackedLinear: 0, PackedMixedLinear: 1, PackedInt8Linear: 2}
"""Numbers in `native/decoder.cpp`."""


class FsLinear(ctypes.Structure):
    """As in `native/decoder.cpp`."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weights", "scale", "corrections", "bias")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs", "kind")),
    )


class FsLayer(ctypes.Structure):
    """As in `native/decoder.cpp`."""

    _fields_ = (
        *((name, FsLinear) for name in ("query", "key", "value", "output", "gate", "up", "down")),
        *((name, ctypes.c_void_p) for name in ("input_norm", "mlp_norm", "query_norm", "key_norm")),
        *((f"{name}_epsilon", ctypes.c_float) for name in ("input", "mlp", "query", "key")),
        *((name, ctypes.c_int64) for name in ("hidden", "heads", "kv_heads", "head_dim")),
    )


def fuse_layers(model: Any, layers: Sequence[LayerShape]) -> int:
    """Replace the decoder layers of ``model`` that fit, in place, after `linears.prepare_linears`.

    Args:
        layers: what `runner.adopt` found.

    Returns:
        the number of layers replaced.
    """
    library = load_library()
    stack = getattr(getattr(model, "model", None), "layers", None)
    if library is None or not isinstance(stack, nn.ModuleList) or len(stack) != len(layers):
        return 0
    config = model.config.get_text_config()
    if getattr(config, "hidden_act", None) not in ACTIVATIONS:
        return 0
    num_replaced = 0
    for at, (layer, shape) in enumerate(zip(stack, layers, strict=True)):
        inner = layer.inner if isinstance(layer, StreamedLayer) else layer
        if not _fits(inner, shape):
            continue
        fused = FusedLayer(inner, shape, library)
        if isinstance(layer, StreamedLayer):
            layer.inner = fused
        else:
            stack[at] = fused
        num_replaced += 1
    return num_replaced


def _fits(layer: Any, shape: LayerShape) -> bool:
    if not any(type(layer).__module__ == f"transformers.models.{name}.modeling_{name}" for name in FAMILIES):
        return False
    if type(layer).__name__.removesuffix("DecoderLayer").lower() not in FAMILIES:
        return False
    if any(
        module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module) for module in layer.modules()
    ):
        return False
    kinds = [[type(linear) for linear in group] for group in _groups(layer)]
    is_packed = all(group[0] in KINDS and len(set(group)) == 1 for group in kinds)
    norms = [norm for norm in _norms(layer) if norm is not None]
    are_float = all(norm.weight.dtype == torch.float32 and norm.weight.device.type == "cpu" for norm in norms)
    has_shape = shape.dtype == torch.float32 and shape.key_dim == shape.value_dim and shape.key_dim % 2 == 0
    return is_packed and are_float and has_shape


def _groups(layer: Any) -> Iterator[tuple[Any, ...]]:
    """Linear layers that run on the same rows; those of one group must be of one kind."""
    attention, mlp = layer.self_attn, layer.mlp
    yield attention.q_proj, attention.k_proj, attention.v_proj
    yield (attention.o_proj,)
    yield mlp.gate_proj, mlp.up_proj
    yield (mlp.down_proj,)


def _norms(layer: Any) -> tuple[Any, Any, Any, Any]:
    """Before attention, before the MLP, of each query head and of each key head (None where there is none)."""
    attention = layer.self_attn
    of_heads = getattr(attention, "q_norm", None), getattr(attention, "k_norm", None)
    return layer.input_layernorm, layer.post_attention_layernorm, *of_heads


class FusedLayer(nn.Module):
    """One decoder layer.

    Args:
        layer: the layer that it replaces, whose weights it uses.
    """

    def __init__(self, layer: Any, shape: LayerShape, library: ctypes.CDLL) -> None:
        super().__init__()
        self.layer = layer
        self._library = library
        self._window = shape.sliding_window
        self._scaling = float(layer.self_attn.scaling)
        self._num_heads = layer.self_attn.q_proj.out_features // shape.key_dim
        self._head_dim = shape.key_dim
        self._shape = shape
        self.weights_moved()

    def weights_moved(self) -> None:
        """Take note of where the layer's tensors are now."""
        self._native = _native_layer(self.layer, self._num_heads, self._shape)
        self._address = ctypes.addressof(self._native)

    def forward(
        self, hidden_states: torch.Tensor, position_embeddings: tuple[torch.Tensor, torch.Tensor], **others: Any
    ) -> torch.Tensor:
        """(1, T, hidden) to the same; the input is written over."""
        step = current_step()
        if not isinstance(step, RaggedStep):
            raise EngineError("a fused layer runs in steps of the engine only")
        library, threads = self._library, torch.get_num_threads()
        hidden = hidden_states.contiguous()
        cos, sin = (each.contiguous() for each in position_embeddings)
        rows = hidden.shape[1]
        keys, values = step.next_pools()
        query = torch.empty(rows, self._num_heads, self._head_dim)
        library.fs_layer_in(
            self._address,
            hidden.data_ptr(),
            cos.data_ptr(),
            sin.data_ptr(),
            step.new_slots.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            query.data_ptr(),
            rows,
            threads,
        )
        attended = torch.empty_like(query)
        table = step.decode_table(self._window)
        if table.num_rows:
            library.fs_attend(
                self._address,
                query.data_ptr(),
                table.slots.ctypes.data,
                table.ends.ctypes.data,
                keys.data_ptr(),
                values.data_ptr(),
                self._scaling,
                attended.data_ptr(),
                table.num_rows,
                threads,
            )
        for chunk in step.prompt_chunks(self._window):
            attended[chunk.first : chunk.last] = chunk.attend(query, keys, values, self._scaling)
        library.fs_layer_out(self._address, hidden.data_ptr(), attended.data_ptr(), rows, threads)
        return hidden


def _native_layer(layer: Any, num_heads: int, shape: LayerShape) -> FsLayer:
    """Addresses of the layer's own tensors, which must outlive it."""
    attention, mlp = layer.self_attn, layer.mlp
    linears = {
        "query": attention.q_proj,
        "key": attention.k_proj,
        "value": attention.v_proj,
        "output": attention.o_proj,
        "gate": mlp.gate_proj,
        "up": mlp.up_proj,
        "down": mlp.down_proj,
    }
    native = FsLayer(
        hidden=attention.q_proj.in_features, heads=num_heads, kv_heads=shape.num_kv_heads, head_dim=shape.key_dim
    )
    for name, linear in linears.items():
        setattr(native, name, _native_linear(linear))
    for name, norm in zip(("input", "mlp", "query", "key"), _norms(layer), strict=True):
        if norm is not None:
            setattr(native, f"{name}_norm", norm.weight.data_ptr())
            setattr(native, f"{name}_epsilon", norm.variance_epsilon)
    return native


def _native_linear(linear: Any) -> FsLinear:
    tensors = {"scale": getattr(linear, "scale", None), "corrections": getattr(linear, "corrections", None)}
    return FsLinear(
        weights=linear.panels.data_ptr(),
        bias=None if linear.bias is None else linear.bias.data_ptr(),
        inputs=linear.in_features,
        outputs=linear.out_features,
        kind=KINDS[type(linear)],
        **{name: None if tensor is None else tensor.data_ptr() for name, tensor in tensors.items()},
    )
