"""Whole benchmarks against a scripted server: what is found out before the load, and what is reported after."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from fastserve_ray.bench.load import Load
from fastserve_ray.bench.plot import check_plot, write_plot
from fastserve_ray.bench.report import document
from fastserve_ray.bench.run import Result, Settings, run_bench
from fastserve_ray.bench.traces import TraceRow
from fastserve_ray.errors import ServeError, UsageError
from tests.bench.scripted import Scripted, answer_in_full, error, serving

if TYPE_CHECKING:
    from pathlib import Path

    from aiohttp import web

ROWS = [TraceRow(0.01 * number, 12 + number, 1 + number % 3) for number in range(6)]


async def bench(script: Scripted, rows: list[TraceRow] | None = None, **settings: Any) -> Result:
    async with serving(script) as server:
        return await run_bench(Settings(server.url, Load(), **settings), rows or ROWS, {"ttft": 30.0})


async def test_lengths_are_as_asked() -> None:
    script = Scripted()
    result = await bench(script, num_warmup=2)
    lengths = sorted((record.num_prompt_tokens, record.num_output_tokens) for record in result.records)
    # The server's usage counts words; the token before them is one more.
    assert lengths == sorted((row.num_prompt_tokens - 1, row.num_completion_tokens) for row in ROWS)
    assert len(script.bodies) == 1 + 2 + len(ROWS)
    assert len({body["prompt"] for body in script.bodies}) == len(script.bodies)
    assert script.bodies[-1]["ignore_eos"] is True
    assert script.bodies[-1]["min_tokens"] == script.bodies[-1]["max_tokens"]
    assert result.figures.goodput_share == 1.0


async def test_fields_that_the_server_does_not_know_are_left_out() -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        for name in ("min_tokens", "ignore_eos"):
            if name in body:
                return error(400, f"unknown parameter: '{name}'")
        return await answer_in_full(request, body)

    script = Scripted(answer)
    result = await bench(script)
    assert result.form.extras == ("stream_options",)
    assert result.figures.num_failed == 0
    assert any("does not take ignore_eos and min_tokens" in note for note in result.notes)


async def test_a_server_that_names_no_field_gets_the_plainest_request() -> None:
    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if "stream_options" in body:
            return error(422, "bad body")
        return await answer_in_full(request, body)

    assert (await bench(Scripted(answer))).form.extras == ()


async def test_a_busy_server_is_asked_again() -> None:
    script = Scripted()

    async def answer(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        if len(script.bodies) == 1:
            return error(429, "slow down", **{"retry-after": "0.1"})
        return await answer_in_full(request, body)

    script.answer = answer
    assert (await bench(script)).figures.num_failed == 0


async def test_a_model_that_is_not_served_is_told_with_those_that_are() -> None:
    with pytest.raises(UsageError, match="not served") as found:
        await bench(Scripted(models=("a", "b")), model="c")
    assert found.value.allowed == "a, b"
    with pytest.raises(UsageError, match="name one"):
        await bench(Scripted(models=("a", "b")))


async def test_a_wrong_address_is_told() -> None:
    async with serving(Scripted()) as server:
        with pytest.raises(ServeError, match="no OpenAI-compatible server") as found:
            await run_bench(Settings(f"{server.url}/elsewhere", Load()), ROWS, {})
    assert found.value.key == "URL"
    with pytest.raises(ServeError, match="no server answers"):
        await run_bench(Settings(server.url, Load()), ROWS, {})


async def test_a_small_request_that_is_refused_is_told() -> None:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return error(500, "no weights")

    with pytest.raises(ServeError, match="no weights"):
        await bench(Scripted(answer))


async def test_a_server_that_is_busy_for_long_is_not_waited_for() -> None:
    async def answer(_: web.Request, __: dict[str, Any]) -> web.StreamResponse:
        return error(429, "slow down", **{"retry-after": "3600"})

    with pytest.raises(ServeError, match="slow down"):
        await bench(Scripted(answer))


async def test_the_key_is_sent() -> None:
    script = Scripted()
    await bench(script, api_key="secret")
    assert script.keys == ["Bearer secret"]


async def test_the_report_is_json_and_tells_each_request() -> None:
    result = await bench(Scripted())
    found = json.loads(json.dumps(document(result)))
    assert [line["number"] for line in found["requests"]] == list(range(len(ROWS)))
    assert found["ttft_s"]["count"] == len(ROWS)
    assert found["num_answered"] == len(ROWS)
    assert found["client"]["send_lag_p99_s"] >= 0


async def test_a_page_holds_its_picture_and_tables(tmp_path: Path) -> None:
    result = await bench(Scripted())
    page, picture = tmp_path / "bench.html", tmp_path / "bench.png"
    check_plot(page)
    write_plot(replace(result, notes=("<b>",)), page)
    text = page.read_text()
    assert "&lt;b&gt;" in text
    assert text.count("<svg") == 1
    assert "TTFT" in text
    write_plot(result, picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_plot_of_another_kind_is_told_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of this kind"):
        check_plot(tmp_path / "bench.doc")
    with pytest.raises(UsageError, match="folder"):
        check_plot(tmp_path / "none" / "bench.png")
