"""The generate engine against transformers' ``generate``: one at a time, and as one padded batch.

Random weights (speed does not depend on them), greedy, end tokens ignored, all requests present at the start. Tokens a
second count what was asked for; a padded batch goes on until its longest request is done, and its surplus counts for
nothing. Runs are interleaved, figures are medians.

    python -m benchmarks.engine [--quick] [--json FILE] [--threads N]
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benchmarks.common import Figure, interleaved_medians, make_parser, report
from benchmarks.peers.workload import Workload
from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastserve_ray.engines.torch.engine import TorchEngine

MAX_MODEL_LEN = 512


@dataclass(frozen=True)
class Shape:
    """A Llama architecture."""

    name: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int

    @property
    def is_small(self) -> bool:
        """Whether 16 requests one by one take seconds, not minutes."""
        return self.hidden_size < 256

    def build(self, max_model_len: int = MAX_MODEL_LEN) -> Any:
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads,
            num_key_value_heads=self.num_kv_heads,
            max_position_embeddings=max_model_len,
            tie_word_embeddings=True,
            eos_token_id=None,
            pad_token_id=0,
        )
        return LlamaForCausalLM(config).eval()


SHAPES = (
    Shape("stories260K (0.26M)", 512, 64, 5, 8, 4, 172),
    Shape("quickstart (2M)", 4096, 160, 4, 4, 4, 432),
    Shape("larger (13M)", 8192, 384, 6, 6, 2, 1152),
)


def workloads(scale: int) -> tuple[Workload, ...]:
    """``scale`` is the longest completion."""
    draw = random.Random(0)
    mixed = tuple((draw.randint(4, 64), draw.randint(scale // 8, scale)) for _ in range(16))
    return (
        Workload("1 request", ((16, scale),)),
        Workload("16 alike", ((16, scale),) * 16),
        Workload("16 mixed", mixed),
    )


def tokenizer_for(vocab_size: int) -> Any:
    """Bytes, and made-up words for the rest of the vocabulary, so that detokenizing costs what it costs."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, *(f"Ġw{number}" for number in range(vocab_size - len(alphabet)))]
    tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, []))
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def prompts(workload: Workload, vocab_size: int) -> list[list[int]]:
    draw = random.Random(1)
    return [[draw.randrange(1, vocab_size) for _ in range(length)] for length, _ in workload.lengths]


def run_engine(engine: TorchEngine, rows: list[list[int]], workload: Workload) -> None:
    requests = [
        GenerateRequest(str(at), tuple(row), SamplingParams(max_tokens=length, temperature=0, ignore_eos=True))
        for at, (row, (_, length)) in enumerate(zip(rows, workload.lengths, strict=True))
    ]
    completions = generate_all(engine, requests)
    assert sum(completion.num_completion_tokens for completion in completions) == workload.num_completion_tokens


def run_one_by_one(model: Any, rows: list[list[int]], workload: Workload) -> None:
    for row, (_, length) in zip(rows, workload.lengths, strict=True):
        ids = torch.tensor([row])
        model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=length)


def run_padded(model: Any, rows: list[list[int]], workload: Workload) -> None:
    width = max(len(row) for row in rows)
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    longest = max(length for _, length in workload.lengths)
    model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=longest)


def measure(shape: Shape, workload: Workload, *, max_num_seqs: int, rounds: int) -> dict[str, Figure]:
    model = shape.build()
    spec = EngineSpec(max_num_seqs=max_num_seqs)
    engine = build_generate_engine(shape.build(), tokenizer_for(shape.vocab_size), spec)
    rows = prompts(workload, shape.vocab_size)
    candidates: dict[str, Callable[[], object]] = {"engine": lambda: run_engine(engine, rows, workload)}
    if len(rows) == 1 or shape.is_small:
        candidates["generate, one by one"] = lambda: run_one_by_one(model, rows, workload)
    if len(rows) > 1:
        candidates["generate, padded batch"] = lambda: run_padded(model, rows, workload)
    seconds = interleaved_medians(candidates, rounds=rounds)
    speeds = {name: workload.num_completion_tokens / value for name, value in seconds.items()}
    best_other = max(speed for name, speed in speeds.items() if name != "engine")
    figures: dict[str, Figure] = {f"{name}, tok/s": speed for name, speed in speeds.items()}
    return {
        "model": shape.name,
        "workload": workload.name,
        **figures,
        "engine / best other": speeds["engine"] / best_other,
    }


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="torch threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    rounds, longest, shapes = (3, 64, SHAPES[:2]) if arguments.quick else (3, 128, SHAPES)
    rows = [
        measure(shape, workload, max_num_seqs=16, rounds=rounds) for shape in shapes for workload in workloads(longest)
    ]
    report(f"generate engine, greedy, fp32, {arguments.threads} threads", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
