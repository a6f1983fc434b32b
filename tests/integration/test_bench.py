"""``fastserve bench`` against a served model: the lengths, counts and figures are those of the server itself."""

from __future__ import annotations

import re
import time
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.cli.commands import fastserve

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.serve.deploy import ServedApp

GENERATED = "(?:completion|generation)_tokens_total"


def counter(app: ServedApp, name: str) -> float:
    """The sum of a counter on the server's page of metrics."""
    with urllib.request.urlopen(f"{app.url}/metrics") as page:
        text = page.read().decode()
    return sum(float(value) for value in re.findall(rf"^\w*{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE))


def test_a_trace_over_http(app: ServedApp, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace, page = tmp_path / "trace.csv", tmp_path / "bench.html"
    lengths = [(20, 12), (33, 7), (150, 30), (64, 1)]
    lines = [f"2023-11-16 18:15:4{at}.6805900,{tokens[0]},{tokens[1]}" for at, tokens in enumerate(lengths)]
    trace.write_text("\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *lines]))
    flags = ("--trace", str(trace), "--rate", "20", "--slo", "jct=10m", "--plot", str(page), "--json")
    assert fastserve(capsys, "bench", app.url, *flags).code == 2  # 10m is no time
    outcome = fastserve(capsys, "bench", app.url, *flags[:5], "jct=600s", *flags[6:])
    assert outcome.code == 0, outcome.err
    found = outcome.data
    assert [(line["prompt_tokens"], line["output_tokens"]) for line in found["requests"]] == lengths
    assert (found["num_answered"], found["num_failed"], found["goodput_share"]) == (4, 0, 1.0)
    assert found["output_tokens"] == 50
    assert found["ttft_s"]["p50"] > 0
    assert not [note for note in found["notes"] if "length" in note or "take" in note]
    assert "<svg" in page.read_text()


@pytest.mark.parametrize("endpoint", ["completions", "chat"])
def test_the_servers_own_counters_agree(app: ServedApp, capsys: pytest.CaptureFixture[str], endpoint: str) -> None:
    before = counter(app, GENERATED)
    flags = ("--endpoint", endpoint, "--users", "3", "--requests", "9", "--input", "uniform:40:60", "--output", "11")
    outcome = fastserve(capsys, "bench", f"{app.url}/v1", *flags)
    assert outcome.code == 0, outcome.err
    expected = before + 9 * 11 + 2  # and the trial of two
    deadline = time.monotonic() + 30
    while counter(app, GENERATED) != expected and time.monotonic() < deadline:
        time.sleep(0.05)  # the last answer is counted a moment after it was sent
    assert counter(app, GENERATED) == expected
    assert "9 answered, 0 failed" in outcome.out
    assert re.search(r"TTFT +\d", outcome.out)


def test_prompts_of_tokens_and_of_a_tokenizer_here(
    app: ServedApp, generator_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--requests", "3", "--rate", "50", "--input", "37", "--output", "4", "--json")
    for more in (("--prompts", "tokens"), ("--tokenizer", str(generator_folder))):
        found = fastserve(capsys, "bench", app.url, *flags, *more).data
        assert [line["prompt_tokens"] for line in found["requests"]] == [37] * 3


def test_requests_that_do_not_fit_the_model_are_failures(app: ServedApp, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--requests", "2", "--rate", "50", "--input", "16", "--output", "4000")
    outcome = fastserve(capsys, "bench", app.url, *flags)
    assert outcome.code == 1
    assert "refused" in outcome.out
    assert "400: " in outcome.out
    assert "2048" in outcome.out
