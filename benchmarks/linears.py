"""Linear layers of a decode step on the CPU: our kernels against torch's, by number of rows.

The shapes are those of the 386.6M-parameter Qwen2 of benchmarks/engine_peers.py. Each call takes another copy of the
weights, so that they come from memory as in a model, not from the cache. GB/s counts the weights once a call. Needs an
idle machine: threads that wait for a core at every layer make all of it ten times slower.

    python -m benchmarks.linears [--quick] [--json FILE] [--threads N]
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import torch
from torch import nn

from benchmarks.common import Figure, interleaved_medians, make_parser, report
from fastserve_ray.engines.torch.linears import PackedInt8Linear, PackedLinear, PackedMixedLinear
from fastserve_ray.models.quantized import Int8DynamicLinear, Int8WeightOnlyLinear
from fastserve_ray.native.library import load_library

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SHAPES = ((896, 896), (896, 4864), (4864, 896))
"""(inputs, outputs)."""
ROWS = (1, 4, 8, 16, 64, 256)
BYTES_OF_COPIES = 400e6
"""Several times the last-level cache."""
CALLS = 24
"""In one measurement."""


class OneDnnLinear(nn.Module):
    """The float layer with the weight reordered for oneDNN."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(layer.weight, None)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        outputs: torch.Tensor = torch.ops.mkldnn._linear_pointwise(inputs, self.packed, None, "none", [], "")
        return outputs


def candidates(inputs: int, outputs: int) -> dict[str, list[nn.Module]]:
    """Copies of each kind of layer."""
    library = load_library()
    if library is None:
        raise SystemExit("no kernels of our own here: no x86, or no C++ compiler")
    count = max(2, int(BYTES_OF_COPIES / (inputs * outputs * 4)))
    layers = [nn.Linear(inputs, outputs, bias=False).requires_grad_(False) for _ in range(min(count, CALLS))]
    dynamic = [Int8DynamicLinear.from_float(layer.weight, None) for layer in layers]
    mixed = [Int8WeightOnlyLinear.from_float(layer.weight, None) for layer in layers]
    return {
        "float32, torch": [*layers],
        "float32, oneDNN packed": [OneDnnLinear(layer) for layer in layers],
        "float32, ours": [PackedLinear(layer, library) for layer in layers],
        "int8-weight-only, torch": [*mixed],
        "int8-weight-only, ours": [PackedMixedLinear(layer, library) for layer in mixed],
        "int8-dynamic, torch": [*dynamic],
        "int8-dynamic, ours": [PackedInt8Linear(layer, library) for layer in dynamic],
    }


def caller(layers: Sequence[nn.Module], x: torch.Tensor) -> Callable[[], None]:
    def call() -> None:
        for layer in itertools.islice(itertools.cycle(layers), CALLS):
            layer(x)

    return call


def measure(inputs: int, outputs: int, rows: Sequence[int], rounds: int) -> list[dict[str, Figure]]:
    layers = candidates(inputs, outputs)
    table: list[dict[str, Figure]] = []
    for count in rows:
        x = torch.randn(count, inputs)
        seconds = interleaved_medians({name: caller(its, x) for name, its in layers.items()}, rounds=rounds)
        for name, value in seconds.items():
            each = value / CALLS
            size = inputs * outputs * (1 if name.startswith("int8") else 4)
            table.append(
                {
                    "shape": f"{inputs}x{outputs}",
                    "rows": count,
                    "layer": name,
                    "us": each * 1e6,
                    "GB/s": size / each / 1e9,
                    "GFLOP/s": 2 * count * inputs * outputs / each / 1e9,
                }
            )
    return table


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    shapes, rows, rounds = (SHAPES[1:2], (1, 16), 3) if arguments.quick else (SHAPES, ROWS, 5)
    with torch.inference_mode():
        figures = [row for shape in shapes for row in measure(*shape, rows, rounds)]
    report(f"linear layers, {arguments.threads} threads", figures, json_file=arguments.json)


if __name__ == "__main__":
    main()
