"""Decode steps of the engine in bf16 against the bound of the memory's bandwidth, on a GPU.

A decode step reads every weight once and every sequence's keys and values once. Those bytes over the bandwidth, which
is measured here by copying, are the least seconds that a step can take; the table shows how near the engine comes, with
attention that gathers, with flex attention, and with flex attention in CUDA graphs (where steps could not be captured
the log says so). Random weights, greedy, all requests alike and present at the start; figures are medians of steps in
which all decode.

    python -m benchmarks.engine_gpu [--quick] [--json FILE] [--device cuda|cpu]
"""

from __future__ import annotations

import statistics
from contextlib import closing
from time import perf_counter
from typing import TYPE_CHECKING, Any

import torch

from benchmarks.common import Figure, make_parser, report
from benchmarks.engine import Shape, tokenizer_for
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.engine import TorchEngine

SHAPES = (
    Shape("Llama shape, 1.2B", 128_256, 2048, 16, 32, 8, 8192),
    Shape("Llama shape, 8B", 128_256, 4096, 32, 32, 8, 14336),
)
QUICK_SHAPES = (Shape("quickstart (2M)", 4096, 160, 4, 4, 4, 432),)
NUM_REQUESTS = (1, 16, 64)
NUM_PROMPT_TOKENS = 512
NUM_STEPS = 64
ATTENTIONS: dict[str, dict[str, Any]] = {
    "gather": {"attention": "gather"},
    "flex": {"attention": "flex", "cuda_graphs": False},
    "flex, graphs": {"attention": "flex", "cuda_graphs": True},
}
"""Names in the table, and what the engine is told."""
COPY_BYTES = 2**30


def bandwidth(device: torch.device, num_bytes: int) -> float:
    """Bytes a second that copying reads and writes, the fastest of five."""
    source = torch.ones(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    seconds = []
    for _ in range(6):
        begin = perf_counter()
        target.copy_(source)
        _wait(device)
        seconds.append(perf_counter() - begin)
    return 2 * num_bytes / min(seconds[1:])


def step_bytes(model: Any, shape: Shape, num_requests: int, num_tokens: int) -> int:
    """What a decode step must read: the weights, and keys and values of ``num_tokens`` a request."""
    parameters = {parameter.data_ptr(): parameter.nbytes for parameter in model.parameters()}
    head_dim = shape.hidden_size // shape.num_heads
    kv_bytes = 2 * shape.num_layers * shape.num_kv_heads * head_dim * int(torch.bfloat16.itemsize)
    return int(sum(parameters.values())) + num_requests * num_tokens * kv_bytes


def decode_seconds(engine: TorchEngine, num_requests: int, num_prompt_tokens: int) -> float:
    """Median seconds of a step in which ``num_requests`` decode."""
    for at in range(num_requests):
        prompt = tuple((7 * at + place) % 509 + 1 for place in range(num_prompt_tokens))
        sampling = SamplingParams(max_tokens=NUM_STEPS + 8, temperature=0, ignore_eos=True)
        engine.add_request(GenerateRequest(str(at), prompt, sampling))
    while len(engine.step()) < num_requests:
        pass  # prompts are being read
    seconds = []
    for _ in range(NUM_STEPS // 2):
        begin = perf_counter()
        deltas = engine.step()  # ends with tokens on the CPU, so the device is done
        seconds.append(perf_counter() - begin)
        assert len(deltas) == num_requests
    for at in range(num_requests):
        engine.cancel(str(at))
    return statistics.median(seconds)


def measure(
    shape: Shape, device: torch.device, bytes_per_second: float, num_prompt_tokens: int
) -> list[dict[str, Figure]]:
    """Every attention in turn, each over a model of its own, since an engine keeps what it takes over."""
    names = list(ATTENTIONS) if device.type == "cuda" else ["gather"]
    return [row for name in names for row in _measure(shape, name, device, bytes_per_second, num_prompt_tokens)]


def _measure(
    shape: Shape, attention: str, device: torch.device, bytes_per_second: float, num_prompt_tokens: int
) -> list[dict[str, Figure]]:
    max_model_len = num_prompt_tokens + 2 * NUM_STEPS
    torch.set_default_device(device)  # billions of weights are drawn where they are used
    model = shape.build(max_model_len).to(device, torch.bfloat16)
    torch.set_default_device("cpu")
    spec = EngineSpec(
        device="cuda" if device.type == "cuda" else "cpu",
        max_num_seqs=max(NUM_REQUESTS),
        prefix_caching=False,
        max_num_batched_tokens=8192,
        **ATTENTIONS[attention],
    )
    rows: list[dict[str, Figure]] = []
    begin = perf_counter()
    with closing(build_generate_engine(model, tokenizer_for(shape.vocab_size), spec)) as engine:
        seconds_to_open = perf_counter() - begin
        for num_requests in NUM_REQUESTS:
            seconds = decode_seconds(engine, num_requests, num_prompt_tokens)
            least = step_bytes(model, shape, num_requests, num_prompt_tokens + NUM_STEPS // 4) / bytes_per_second
            rows.append(
                {
                    "model": shape.name,
                    "attention": attention,
                    "requests": num_requests,
                    "tok/s": num_requests / seconds,
                    "ms a step": 1e3 * seconds,
                    "least ms": 1e3 * least,
                    "of the bound": least / seconds,
                    "s to open": seconds_to_open,
                }
            )
    return rows


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu only tries the benchmark out")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.exit(1, "not run: torch finds no CUDA device\n")
    shapes, num_prompt_tokens = (QUICK_SHAPES, 64) if arguments.quick else (SHAPES, NUM_PROMPT_TOKENS)
    bytes_per_second = bandwidth(device, COPY_BYTES // 16 if arguments.quick else COPY_BYTES)
    rows = [row for shape in shapes for row in measure(shape, device, bytes_per_second, num_prompt_tokens)]
    title = f"decode in bf16 on {device_name(device)}, {bytes_per_second / 1e9:.0f} GB/s measured by copying"
    report(title, rows, json_file=arguments.json)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    main()
