"""Two API keys over HTTP, of whom one floods: the other's time to first token, through Ray Serve and all.

The light key asks in a Poisson process, `LIGHT_PER_S` short streams a second. The heavy one keeps `FLOOD` streams open
from a process of its own, asks again at once when one ends, and ``PAUSE_S`` after it was turned away, whatever
retry-after says. Cases: the light key alone; with the flood, where keys are known (a fair gate before the replicas, the
engine's fair policy); and with the same flood where nobody is told apart (Serve's queue, first come first served).

    python -m benchmarks.fairness_http [--quick] [--seconds N] [--json FILE]
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import tempfile
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import httpx

from benchmarks.common import Figure, make_parser, report
from fastserve_ray.serve.deploy import deploy
from fastserve_ray.spec.access import AuthSpec
from fastserve_ray.spec.keys import hash_of
from fastserve_ray.spec.serve import EngineSpec, ServeSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

FLOOD = 128
LIGHT_PER_S = 2.0
PAUSE_S = 0.25
LIGHT = {"model": "m", "prompt": "the cat sat on the mat " * 8, "max_tokens": 8, "stream": True, "temperature": 0}
HEAVY = {"model": "m", "prompt": "the dog barked at it " * 8, "max_tokens": 128, "stream": True, "ignore_eos": True}
KEYS = {name: f"{name}'s" for name in ("light", "heavy")}
SHAPE = {"hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1024}
"""About 6M parameters: the engine is what is busy, not HTTP."""
CASES = ("alone", "flood, keys", "flood, no keys")


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=40.0, help="of light requests, each case")
    args = parser.parse_args()
    seconds = 10.0 if args.quick else args.seconds
    with tempfile.TemporaryDirectory(prefix="fsr-fair-") as folder:
        _save_model(Path(folder) / "model")
        rows = [_run(case, Path(folder), seconds) for case in CASES]
    alone = rows[0]["p95 TTFT ms"]
    assert isinstance(alone, float)
    for row in rows:
        row["times alone"] = float(str(row["p95 TTFT ms"])) / alone
    report("a light key beside one that floods", rows, json_file=args.json)


def _run(case: str, folder: Path, seconds: float) -> dict[str, Figure]:
    keys = folder / "keys.yaml"
    keys.write_text(json.dumps({"keys": [{"name": name, "sha256": hash_of(key)} for name, key in KEYS.items()]}))
    auth = None if case == CASES[2] else AuthSpec(keys_file=str(keys))
    spec = ServeSpec(port=0, auth=auth, engine=EngineSpec(max_num_seqs=8, num_threads=1))
    app = deploy(folder / "model", "text-generation", "m", spec)
    try:
        _warm_up(app.url)
        if case == CASES[0]:
            return _row(case, asyncio.run(_light(app.url, seconds)), 0, 0, seconds)
        with _flood(app.url) as counts:
            start = perf_counter()
            times = asyncio.run(_light(app.url, seconds))
            tokens, refused = counts[0], counts[1]
            return _row(case, times, tokens, refused, perf_counter() - start)
    finally:
        app.shutdown()


def _row(case: str, times: list[float], tokens: int, refused: int, seconds: float) -> dict[str, Figure]:
    ordered = sorted(times)
    return {
        "case": case,
        "light requests": len(ordered),
        "p50 TTFT ms": 1000 * ordered[len(ordered) // 2],
        "p95 TTFT ms": 1000 * ordered[int(0.95 * (len(ordered) - 1))],
        "flood tokens/s": tokens / seconds,
        "flood refused/s": refused / seconds,
    }


def _headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[key]}"}


def _warm_up(url: str) -> None:
    for _ in range(5):
        httpx.post(f"{url}/v1/completions", json=LIGHT, headers=_headers("light"), timeout=120).raise_for_status()


async def _light(url: str, seconds: float) -> list[float]:
    """Times to the first token, seconds; a request that is turned away asks again until it is answered."""
    draw, start, tasks = random.Random(0), perf_counter(), []
    async with httpx.AsyncClient(base_url=url, timeout=300, headers=_headers("light")) as http:
        while perf_counter() - start < seconds:
            await asyncio.sleep(draw.expovariate(LIGHT_PER_S))
            tasks.append(asyncio.create_task(_first_token(http)))
        return await asyncio.gather(*tasks)


async def _first_token(http: httpx.AsyncClient) -> float:
    start = perf_counter()
    while True:
        async with http.stream("POST", "/v1/completions", json=LIGHT) as response:
            if response.status_code == 200:
                lines = response.aiter_lines()
                await anext(lines)
                seconds = perf_counter() - start
                async for _ in lines:
                    pass
                return seconds
        await asyncio.sleep(PAUSE_S)


@contextmanager
def _flood(url: str) -> Iterator[Any]:
    """Counts of tokens and of refusals of the heavy key, once it fills the server."""
    context = multiprocessing.get_context("spawn")
    counts = context.Array("q", 2)
    process = context.Process(target=_flood_process, args=(url, counts), daemon=True)
    process.start()
    try:
        while not counts[0]:
            process.join(0.1)
        process.join(3.0)
        counts[0] = counts[1] = 0
        yield counts
    finally:
        process.terminate()
        process.join()


def _flood_process(url: str, counts: Any) -> None:
    asyncio.run(_flood_all(url, counts))


async def _flood_all(url: str, counts: Any) -> None:
    limits = httpx.Limits(max_connections=FLOOD)
    async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits, headers=_headers("heavy")) as http:
        await asyncio.gather(*(_one_of_flood(http, counts) for _ in range(FLOOD)))


async def _one_of_flood(http: httpx.AsyncClient, counts: Any) -> None:
    while True:
        async with http.stream("POST", "/v1/completions", json=HEAVY) as response:
            async for _ in response.aiter_raw():
                pass
        if response.status_code == 200:
            counts[0] += HEAVY["max_tokens"]
        else:
            counts[1] += 1
            await asyncio.sleep(PAUSE_S)


def _save_model(folder: Path) -> None:
    """A llama with random weights and a tokenizer of bytes."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {word: at for at, word in enumerate(["<s>", "</s>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(words, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", vocab_size=len(words), max_position_embeddings=1024, bos_token_id=0, eos_token_id=1, **SHAPE
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", model_max_length=1024
    ).save_pretrained(folder)


if __name__ == "__main__":
    main()
