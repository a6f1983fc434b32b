"""Writes the files of a checkpoint. The writer of safetensors never holds the interpreter while bytes move.

The library's own writer copies every tensor to a bytes object first, and training in the other thread would wait.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from pydantic import JsonValue

_DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8


def write_json(
    open_file: Callable[[str], AbstractContextManager[IO[bytes]]], name: str, value: Mapping[str, JsonValue]
) -> None:
    with open_file(name) as file:
        file.write(json.dumps(value).encode())


def write_tensors(file: IO[bytes], tensors: Sequence[torch.Tensor]) -> int:
    """Write one-dimensional CPU tensors in the safetensors format under the names "0", "1", ...

    Returns:
        bytes written.
    """
    order = sorted(range(len(tensors)), key=lambda index: -tensors[index].element_size())  # keeps all aligned
    header, offset = {}, 0
    for index in order:
        tensor = tensors[index]
        last = offset + tensor.nbytes
        header[str(index)] = {
            "dtype": _DTYPES[tensor.dtype],
            "shape": [tensor.numel()],
            "data_offsets": [offset, last],
        }
        offset = last
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for index in order:
        file.write(memoryview(tensors[index].view(torch.uint8).numpy()))
    return 8 + len(text) + offset
