"""The figures of ``fastserve bench`` beside those of ``guidellm`` on one server, which both ask in turn.

The server is ``fastserve serve`` in a process of its own, with random weights. Both clients send the same number of
requests at the same fixed rate, well below what the server can do, with prompts and completions of one length, and
stream. Medians over requests of TTFT and of the time per output token after the first (guidellm's "inter-token
latency"), and output tokens a second over the run; each the median over rounds. guidellm lives in an environment of its
own: ``python -m venv FOLDER && FOLDER/bin/pip install guidellm``.

    python -m benchmarks.bench_peers --guidellm FOLDER/bin/guidellm [--quick] [--rounds N] [--json FILE]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.common import Figure, make_parser, report
from benchmarks.peers.weights import make_model_folder
from benchmarks.peers.workload import QUICK_SHAPE
from benchmarks.served import served

if TYPE_CHECKING:
    from collections.abc import Callable

MEASURES = ("TTFT ms", "TPOT ms", "tokens/s out")


@dataclass(frozen=True)
class Load:
    """What each client sends in a round."""

    rate: float
    num_requests: int
    num_prompt_tokens: int
    num_output_tokens: int


FULL = Load(2.0, 40, 128, 64)
QUICK = Load(2.0, 8, 64, 16)
Figures = dict[str, float]


def ask_fastserve(url: str, load: Load, _: Path, seed: int) -> Figures:
    command = [sys.executable, "-m", "fastserve_ray.cli.main", "bench", url, "--json", "--arrivals", "fixed"]
    command += ["--rate", str(load.rate), "--requests", str(load.num_requests), "--seed", str(seed)]
    command += ["--input", str(load.num_prompt_tokens), "--output", str(load.num_output_tokens)]
    found = json.loads(run(command))
    values = found["ttft_s"]["p50"] * 1000, found["tpot_s"]["p50"] * 1000, found["output_tokens_per_s"]
    return checked(dict(zip(MEASURES, values, strict=True)), found["num_answered"], load)


def guidellm(program: Path, folder: Path) -> Callable[[str, Load, Path, int], Figures]:
    """Its client, with the tokenizer of the model folder."""

    def ask(url: str, load: Load, scratch: Path, seed: int) -> Figures:
        output = scratch / f"guidellm-{seed}.json"
        data = f"kind=synthetic_text,prompt_tokens={load.num_prompt_tokens},output_tokens={load.num_output_tokens}"
        command = [str(program), "run", "--disable-console", "--profile", f"kind=constant,rate={load.rate}"]
        command += ["--backend", f"kind=openai_http,target={url},model={folder.name},request_format=/v1/completions"]
        command += ["--tokenizer", f"kind=huggingface_auto,model={folder}", "--data", data]
        command += [
            "--constraint",
            f"kind=max_requests,count={load.num_requests}",
            "--seed",
            f"kind=static,value={seed}",
        ]
        run([*command, "--output", f"kind=json,path={output}"])
        (found,) = json.loads(output.read_text())["benchmarks"]
        return checked(guidellm_figures(found), found["metrics"]["request_totals"]["successful"], load)

    return ask


def guidellm_figures(found: dict[str, Any]) -> Figures:
    """Of its report. Tokens a second are over the time from the first request to the last answer, as ours are."""
    metrics, answered = found["metrics"], found["requests"]["successful"]
    seconds = max(one["request_end_time"] for one in answered) - min(one["request_start_time"] for one in answered)
    names = ("time_to_first_token_ms", "inter_token_latency_ms")
    medians = [metrics[name]["successful"]["percentiles"]["p50"] for name in names]
    tokens = sum(one["output_tokens"] for one in answered)
    return dict(zip(MEASURES, (*medians, tokens / seconds), strict=True))


def checked(figures: Figures, num_answered: int, load: Load) -> Figures:
    if num_answered != load.num_requests:
        raise SystemExit(f"{num_answered} of {load.num_requests} requests were answered")
    return figures


def run(command: list[str]) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def measure(program: Path, load: Load, rounds: int) -> dict[str, list[Figures]]:
    """Each client's rounds, in turn, after one that warms up."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        make_model_folder(QUICK_SHAPE, folder)
        clients = {"fastserve bench": ask_fastserve, "guidellm": guidellm(program, folder)}
        found: dict[str, list[Figures]] = {name: [] for name in clients}
        with served(folder) as url:
            for number in range(rounds + 1):
                for name, ask in clients.items():
                    figures = ask(url, load, Path(scratch), number)
                    print(name, figures, file=sys.stderr, flush=True)
                    if number:
                        found[name].append(figures)
    return found


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--guidellm", type=Path, required=True, metavar="PROGRAM", help="in an environment of its own")
    parser.add_argument("--rounds", type=int, default=5, help="after one that warms up")
    arguments = parser.parse_args()
    load, rounds = (QUICK, 1) if arguments.quick else (FULL, arguments.rounds)
    found = measure(arguments.guidellm, load, rounds)
    rows: list[dict[str, Figure]] = [
        {"client": name, **{measure: median(one[measure] for one in figures) for measure in MEASURES}}
        for name, figures in found.items()
    ]
    ours, theirs = (found[name] for name in found)
    ratios = {name: median(one[name] for one in ours) / median(one[name] for one in theirs) for name in MEASURES}
    rows.append({"client": "ratio", **ratios})
    title = f"{load.num_requests} requests at {load.rate:g}/s, {load.num_prompt_tokens} tokens in, "
    report(f"{title}{load.num_output_tokens} out, {rounds} rounds", rows, json_file=arguments.json)


if __name__ == "__main__":
    main()
