"""What int8 costs: perplexity of one trained model in the forms that the engine serves it in.

The same tokens go through the engine's own forward pass (packed and fused layers, attention over the cache) in windows.
Without ``--text`` the tokens are what the float32 model samples at temperature 1, which is text of the kind that it
was trained for.

    python -m benchmarks.int8_quality --model FOLDER [--text FILE] [--tokens N] [--json FILE]
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.common import make_parser, report
from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.attention import running
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.engines.torch.fused import fuse_layers
from fastserve_ray.engines.torch.kv_cache import KvCache
from fastserve_ray.engines.torch.linears import prepare_linears, quantize_output_layer
from fastserve_ray.engines.torch.ragged import RaggedStep, Span
from fastserve_ray.engines.torch.runner import adopt, forward
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec.compress import QuantizeStep
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from collections.abc import Sequence

TASK = "text-generation"
FORMS = {
    "float32": (None, False),
    "int8-weight-only": ("int8-weight-only", False),
    "int8-dynamic": ("int8-dynamic", False),
    "float32, int8 output layer": (None, True),
    "int8-dynamic, int8 output layer": ("int8-dynamic", True),
}
"""(scheme of the blocks' linear layers, whether the output layer and a shared embedding are int8 too)."""
WINDOW = 256
"""Tokens that are read at once, from an empty cache."""


def served_model(folder: Path, scheme: str | None, *, has_int8_output: bool) -> Any:
    """The model, before an engine takes it over."""
    model: Any = load_pretrained(folder, TASK).model
    if scheme is not None:
        quantize_model(model, QuantizeStep.model_validate({"kind": "quantize", "scheme": scheme}))
    if has_int8_output:
        quantize_output_layer(model)
    return model


@torch.inference_mode()
def perplexity(model: Any, windows: Sequence[Sequence[int]]) -> float:
    """Of the tokens after the first of each window; ``model`` is changed as the engine does."""
    layers = adopt(model)
    prepare_linears(model)
    fuse_layers(model, layers)
    loss, count = 0.0, 0
    for window in windows:
        cache = KvCache(layers, len(window), model.device)
        ids, positions = torch.tensor(window), torch.arange(len(window))
        span = Span(0, 0, len(window), np.arange(len(window)), is_contiguous=True)
        with running(RaggedStep(cache, [span])):
            logits = forward(model, ids, positions, positions)
        loss += float(cross_entropy(logits[:-1].double(), ids[1:], reduction="sum"))
        count += len(window) - 1
    return math.exp(loss / count)


def sampled_windows(folder: Path, num_tokens: int) -> list[list[int]]:
    """What the float32 model says after its first token, at temperature 1."""
    loaded = load_pretrained(folder, TASK)
    first = loaded.tokenizer.bos_token_id
    engine = build_generate_engine(loaded.model, loaded.tokenizer, EngineSpec())
    length = min(WINDOW, engine.max_model_len) - 1
    asked = [
        GenerateRequest(str(at), (first,), SamplingParams(max_tokens=length, temperature=1, seed=at))
        for at in range(max(1, num_tokens // length))
    ]
    completions = generate_all(engine, asked)
    engine.close()
    return [[first, *each.token_ids] for each in completions if len(each.token_ids) > 1]


def text_windows(folder: Path, text: Path, num_tokens: int) -> list[list[int]]:
    ids = load_pretrained(folder, TASK).tokenizer(text.read_text()[: 20 * num_tokens]).input_ids[:num_tokens]
    return [ids[at : at + WINDOW] for at in range(0, len(ids) - 1, WINDOW)]


def main() -> None:
    flags = make_parser(__doc__)
    flags.add_argument("--model", type=Path, required=True, metavar="FOLDER")
    flags.add_argument("--text", type=Path, metavar="FILE")
    flags.add_argument("--tokens", type=int, default=16_384)
    options = flags.parse_args()
    count = 1024 if options.quick else options.tokens
    windows = (
        sampled_windows(options.model, count)
        if options.text is None
        else text_windows(options.model, options.text, count)
    )
    found = {
        name: perplexity(served_model(options.model, scheme, has_int8_output=has_int8_output), windows)
        for name, (scheme, has_int8_output) in FORMS.items()
    }
    rows = [
        {"form": name, "perplexity": round(value, 4), "change": f"{value / found['float32'] - 1:+.3%}"}
        for name, value in found.items()
    ]
    report(f"{sum(map(len, windows))} tokens in {len(windows)} windows", rows, json_file=options.json)


if __name__ == "__main__":
    main()
