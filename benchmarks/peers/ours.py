"""This engine, through its public call, on an unchanged folder or on one that the compress step quantized."""

from __future__ import annotations

import shutil
import time
from collections import deque
from typing import TYPE_CHECKING

from benchmarks.peers import adaptor
from benchmarks.peers.workload import LARGEST_STEP, MAX_MODEL_LEN, MAX_NUM_SEQS, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastserve_ray.engines.protocol import GenerateEngine

TASK = "text-generation"
INT8_HEAD = "+head"
"""After a precision: output layer and embedding in int8 too (serve.engine.int8_output_layer)."""


class Ours:
    PACKAGES: tuple[str, ...] = ("torch", "transformers")

    def convert(self, source: Path, target: Path, precision: str) -> None:
        precision = precision.removesuffix(INT8_HEAD)
        if precision == "fp32":
            shutil.copytree(source, target, dirs_exist_ok=True)
            return
        from fastserve_ray.compress.quantize import quantize_model
        from fastserve_ray.models.compressed import save_compressed
        from fastserve_ray.models.loading import load_pretrained
        from fastserve_ray.spec.compress import QuantizeStep

        step = QuantizeStep.model_validate({"kind": "quantize", "scheme": precision})
        loaded = load_pretrained(source, TASK)
        quantize_model(loaded.model, step)
        save_compressed(loaded.model, loaded.tokenizer, target, scheme=step.scheme)

    def load(self, folder: Path, threads: int, precision: str) -> adaptor.Engine:
        from fastserve_ray.engines.table import open_engine
        from fastserve_ray.spec.serve import EngineSpec

        spec = EngineSpec(
            num_threads=threads,
            max_num_seqs=MAX_NUM_SEQS,
            max_model_len=MAX_MODEL_LEN,
            max_num_batched_tokens=LARGEST_STEP,
            int8_output_layer=precision.endswith(INT8_HEAD),
        )
        return _Engine(open_engine(folder, TASK, spec))  # type: ignore[arg-type]


class _Engine:
    def __init__(self, engine: GenerateEngine) -> None:
        self._engine = engine

    def run(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams

        to_come = deque(sorted(enumerate(asked), key=lambda numbered: numbered[1].at))
        while to_come or self._engine.has_work():
            while to_come and to_come[0][1].at <= watch.seconds:
                number, request = to_come.popleft()
                sampling = SamplingParams(max_tokens=request.length, temperature=0, ignore_eos=True)
                self._engine.add_request(GenerateRequest(str(number), request.prompt, sampling))
            if not self._engine.has_work():
                time.sleep(max(0.0, to_come[0][1].at - watch.seconds))
                continue
            for delta in self._engine.step():
                watch.saw(int(delta.request_id), *delta.token_ids)


if __name__ == "__main__":
    adaptor.main(Ours())
