"""Int8 schemes against float32: latency, error, size, and whether a row depends on its neighbours.

A BERT of MiniLM-L6's shape reads sentences of 64 tokens, a Llama decodes one token for each of N requests. Beside our
two schemes stand that of torch.ao.quantization and, where installed (pip install torchao), those of torchao. Runs are
interleaved, figures are medians; "speed" is relative to float32, "error" the relative L2 distance of the last hidden
states, and "rows" says whether a layer gives a row the same bits alone and among others.
Weights are random, or those of ``--model FOLDER`` (an encoder); speed does not depend on them, the error does.

    python -m benchmarks.compression [--quick] [--json FILE] [--threads N] [--model FOLDER]
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModel, BertConfig, BertModel, LlamaConfig, LlamaModel

from benchmarks.common import Figure, interleaved_medians, make_parser, report
from fastserve_ray.compress.measure import tensor_bytes
from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.spec import QuantizeStep

if TYPE_CHECKING:
    from collections.abc import Callable

SENTENCE = 64
OWN = ("int8-dynamic", "int8-weight-only")


@dataclass(frozen=True)
class Workload:
    """One model and the shape of its input, (rows, tokens)."""

    name: str
    build: Callable[[], Any]
    shapes: tuple[tuple[int, int], ...]


def minilm() -> Any:
    """The shape of all-MiniLM-L6: 22 million weights."""
    torch.manual_seed(0)
    config = BertConfig(hidden_size=384, intermediate_size=1536, num_hidden_layers=6, num_attention_heads=12)
    return BertModel(config).eval()


def llama(hidden_size: int) -> Any:
    """Eight layers."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=hidden_size,
        intermediate_size=hidden_size * 8 // 3 // 16 * 16,
        num_hidden_layers=8,
        num_attention_heads=hidden_size // 64,
        num_key_value_heads=hidden_size // 64,
    )
    return LlamaModel(config).eval()


def own(model: Any, scheme: Any) -> Any:
    quantize_model(model, QuantizeStep(kind="quantize", scheme=scheme))
    return model


def torchao(model: Any, config_name: str) -> Any:
    quantization = import_module("torchao.quantization")
    quantization.quantize_(model, getattr(quantization, config_name)())
    return model


def torch_dynamic(model: Any) -> Any:
    return torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)


def candidates(model: Any) -> dict[str, Any]:
    """The same model in every scheme."""
    makers: dict[str, Callable[[Any], Any]] = {
        "float32": lambda model: model,
        **{scheme: partial(own, scheme=scheme) for scheme in OWN},
        "torch.ao dynamic": torch_dynamic,
    }
    if find_spec("torchao"):
        makers["torchao dynamic"] = partial(torchao, config_name="Int8DynamicActivationInt8WeightConfig")
        makers["torchao weight-only"] = partial(torchao, config_name="Int8WeightOnlyConfig")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.ao announces its end
        return {name: make(copy.deepcopy(model)) for name, make in makers.items()}


def hidden(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Last hidden states (rows, tokens, width)."""
    with torch.inference_mode():
        result: torch.Tensor = model(input_ids=tokens, attention_mask=torch.ones_like(tokens)).last_hidden_state
    return result


def is_independent(layer: torch.nn.Module, width: int, rows: int) -> bool:
    """Whether one layer gives a row the same bits alone and among others, one of which is large."""
    inputs = torch.randn(rows, width, generator=torch.Generator().manual_seed(0))
    inputs[0] *= 50
    with torch.inference_mode():
        together = layer(inputs)
        return all(torch.equal(layer(inputs[i : i + 1])[0], together[i]) for i in range(min(rows, 16)))


def first_layer(model: Any) -> torch.nn.Module:
    """The first feed-forward matrix."""
    for name, module in model.named_modules():
        if name.endswith(("intermediate.dense", "mlp.up_proj")):
            found: torch.nn.Module = module
            return found
    raise ValueError("the model has no feed-forward layer that this benchmark knows")


def measure(workload: Workload, *, rounds: int) -> list[dict[str, Figure]]:
    """One row for each shape and scheme."""
    models = candidates(workload.build())
    config = models["float32"].config
    sizes = {name: tensor_bytes(model) for name, model in models.items() if name in {"float32", *OWN}}
    rows: list[dict[str, Figure]] = []
    for shape in workload.shapes:
        tokens = torch.randint(5, config.vocab_size, shape, generator=torch.Generator().manual_seed(1))
        runs = {name: partial(hidden, model, tokens) for name, model in models.items()}
        seconds = interleaved_medians(runs, rounds=rounds, warmup=2)
        exact = hidden(models["float32"], tokens)
        for name, model in models.items():
            independent = is_independent(first_layer(model), config.hidden_size, max(16, shape[0] * shape[1]))
            rows.append(
                {
                    "input": f"{workload.name} {shape[0]}x{shape[1]}",
                    "scheme": name,
                    "ms": 1000 * seconds[name],
                    "speed": round(seconds["float32"] / seconds[name], 3),
                    "error": round(float((hidden(model, tokens) - exact).norm() / exact.norm()), 5),
                    "MB": sizes[name] / 1e6 if name in sizes else None,
                    "rows": "alone" if independent else "mixed",
                }
            )
    return rows


def workloads(folder: Path | None, *, is_quick: bool) -> list[Workload]:
    batches = (1, 8) if is_quick else (1, 8, 32)
    encoder = minilm if folder is None else lambda: AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    decoding = ((1, 1), (16, 1))
    return [
        Workload("bert" if folder is None else folder.name, encoder, tuple((rows, SENTENCE) for rows in batches)),
        *[Workload(f"llama-{width}", partial(llama, width), decoding) for width in (256, 512)],
    ]


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", type=Path, metavar="FOLDER", help="an encoder, in place of one with random weights")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = [
        row
        for workload in workloads(options.model, is_quick=options.quick)
        for row in measure(workload, rounds=7 if options.quick else 25)
    ]
    report(f"int8 against float32, {options.threads} threads", rows, json_file=options.json)


if __name__ == "__main__":
    main()
