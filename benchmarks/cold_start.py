"""From zero replicas to a request's first token, over HTTP, phase by phase.

``fastserve serve`` on a model of the quickstart's shape (a Llama of 1.1 million parameters in int8; random weights),
with no replica. A request is sent, its first token is waited for, and the replica's own account of its start is read
from ``/metrics``; then the replica goes, and it begins anew. The first round only warms up: files are in the page cache
after it, and the store has the weights. The server's processes run at the same priority as everything else.

    python -m benchmarks.cold_start [--rounds N] [--store off] [--json FILE]
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from time import perf_counter

import httpx
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.common import Figure, make_parser, report
from benchmarks.peers.weights import make_tokenizer
from benchmarks.served import served
from fastserve_ray.serve.cold_start import PHASES

SHAPE = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
"""As in cluster/quickstart.yaml."""
VOCAB_SIZE = 2048
SCALING = {
    "min_replicas": 0,
    "max_replicas": 1,
    "downscale_delay_s": 1,
    "downscale_to_zero_delay_s": 2,
    "metrics_interval_s": 0.5,
    "look_back_period_s": 1.5,
}
"""The last four only let the replica go quickly; the way up from zero does not wait for them."""
TIMEOUT_S = 120.0
CALM_S = 2.0
"""After the last replica has gone, for its process to end."""


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", choices=("on", "off"), default="on", help="whether the weights lie in the store")
    args = parser.parse_args()
    settings = [f"serve.autoscaling_config={json.dumps(SCALING)}", f"serve.weights.store={args.store}"]
    with tempfile.TemporaryDirectory(prefix="fsr-cold-") as place:
        folder = Path(place) / "model"
        folder.mkdir()
        save_model(folder)
        with served(folder, settings) as url:
            rows = [{"round": name, **cold_start(url)} for name in ("warm-up", *range(1, args.rounds + 1))]
    measured = rows[1:]
    median: dict[str, Figure] = {"round": "median"}
    for column in ("first token s", *PHASES):
        median[column] = statistics.median(float(row[column] or 0.0) for row in measured)
    report(f"from zero to the first token, seconds; store {args.store}", [*rows, median], json_file=args.json)


def save_model(folder: Path) -> None:
    from fastserve_ray.compress.quantize import quantize_model
    from fastserve_ray.models.compressed import save_compressed
    from fastserve_ray.models.loading import build_from_config
    from fastserve_ray.spec.compress import QuantizeStep

    tokenizer = make_tokenizer(VOCAB_SIZE)
    model = build_from_config(SHAPE, "text-generation", tokenizer, seed=0)
    quantize_model(model, QuantizeStep(kind="quantize", scheme="int8-dynamic"))
    save_compressed(model, tokenizer, folder, scheme="int8-dynamic")


def cold_start(url: str) -> dict[str, Figure]:
    """One round: the client's seconds to the first token, and the replica's phases."""
    wait_for_zero(url)
    seconds = first_token_s(url)
    return {"first token s": seconds, **start_phases(url)}


def wait_for_zero(url: str) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while "zero" not in httpx.get(f"{url}/ready", timeout=TIMEOUT_S).text:
        if time.monotonic() > deadline:
            raise SystemExit(f"the replica does not go in {TIMEOUT_S:g} s")
        time.sleep(0.2)
    time.sleep(CALM_S)


def first_token_s(url: str) -> float:
    body = {"model": "model", "prompt": "Return the", "max_tokens": 8, "temperature": 0, "stream": True}
    start = perf_counter()
    with httpx.stream("POST", f"{url}/v1/completions", json=body, timeout=TIMEOUT_S) as response:
        response.raise_for_status()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                return perf_counter() - start
    raise SystemExit("the request was answered without a token")


def start_phases(url: str) -> dict[str, float]:
    """Of the only replica."""
    page = text_string_to_metric_families(httpx.get(f"{url}/metrics", timeout=TIMEOUT_S).text)
    samples = [sample for family in page for sample in family.samples]
    return {one.labels["phase"]: one.value for one in samples if one.name == "fastserve_replica_start_seconds"}


if __name__ == "__main__":
    main()
