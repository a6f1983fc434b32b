"""OpenVINO GenAI's continuous batching; the model goes through optimum-intel's export.

fp32 and bf16 compute and cache in these; int8 is optimum-intel's 8-bit weights (embedding and head too) with all else
left to OpenVINO's defaults: 8-bit activations by group, 8-bit KV cache, bfloat16 where the processor has it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from benchmarks.peers import adaptor
from benchmarks.peers.workload import LARGEST_STEP, MAX_MODEL_LEN, MAX_NUM_SEQS, Asked

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BLOCK_SIZE = 32
"""Tokens in a block of the KV cache on the CPU."""
PROPERTIES: dict[str, dict[str, str | int]] = {
    "fp32": {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "bf16": {"INFERENCE_PRECISION_HINT": "bf16", "KV_CACHE_PRECISION": "bf16", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0},
    "int8": {},
}


class OpenVino:
    PACKAGES: tuple[str, ...] = ("openvino", "openvino-genai")

    def convert(self, source: Path, target: Path, precision: str) -> None:
        optimum = import_module("optimum.intel")
        tokenizers, openvino = import_module("openvino_tokenizers"), import_module("openvino")
        transformers = import_module("transformers")
        quantization = optimum.OVWeightQuantizationConfig(bits=8) if precision == "int8" else None
        model = optimum.OVModelForCausalLM.from_pretrained(
            source, export=True, compile=False, load_in_8bit=False, quantization_config=quantization
        )
        model.save_pretrained(target)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        tokenizer.save_pretrained(target)
        for name, part in zip(
            ("tokenizer", "detokenizer"), tokenizers.convert_tokenizer(tokenizer, with_detokenizer=True), strict=True
        ):
            openvino.save_model(part, target / f"openvino_{name}.xml")

    def load(self, folder: Path, threads: int, precision: str) -> adaptor.Engine:
        genai = import_module("openvino_genai")
        scheduler = genai.SchedulerConfig()
        scheduler.num_kv_blocks = MAX_NUM_SEQS * MAX_MODEL_LEN // BLOCK_SIZE
        scheduler.max_num_seqs = MAX_NUM_SEQS
        scheduler.max_num_batched_tokens = LARGEST_STEP
        properties = {"INFERENCE_NUM_THREADS": threads, **PROPERTIES[precision]}
        return _Engine(genai.ContinuousBatchingPipeline(str(folder), scheduler, "CPU", properties))


class _Engine:
    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline

    def run(self, asked: Sequence[Asked], watch: adaptor.Stopwatch) -> None:
        numpy, openvino = import_module("numpy"), import_module("openvino")
        handles = []
        for number, request in enumerate(asked):
            ids = openvino.Tensor(numpy.array([request.prompt], dtype=numpy.int64))
            handles.append(self._pipeline.add_request(number, ids, _greedy(request.length)))
        while self._pipeline.has_non_finished_requests():
            self._pipeline.step()
            for number, handle in enumerate(handles):
                while handle.can_read():
                    for output in handle.read().values():
                        watch.saw(number, *output.generated_ids)


def _greedy(length: int) -> Any:
    config = import_module("openvino_genai").GenerationConfig()
    config.max_new_tokens = length
    config.ignore_eos = True
    config.do_sample = False
    return config


if __name__ == "__main__":
    adaptor.main(OpenVino())
