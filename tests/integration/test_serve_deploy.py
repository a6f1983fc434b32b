"""Applications of a running cluster through Serve's REST API: deployed, replaced, failed, and gone back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from fastserve_ray.remote.applications import follow, put_application, read_serve
from fastserve_ray.remote.dashboard import Dashboard
from fastserve_ray.remote.token import Token
from tests.integration.greeting import CONFIG
from tests.integration.head import TOKEN, free_ports
from tests.integration.served import save_generator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.head import Head

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

FILE = """
name: tiny
storage: ./storage
model: {{base: ./first}}
serve:
  host: 127.0.0.1
  port: {port}
  engine: {{dtype: float32}}
"""


@pytest.fixture(scope="module")
def dashboard(head: Head) -> Dashboard:
    return Dashboard(head.url, Token(TOKEN, "a test"))


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deploy")
    for name in ("first", "broken"):
        save_generator(folder / name)
    weights = folder / "broken" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    (folder / "app.yaml").write_text(FILE.format(port=free_ports(1)[0]))
    return folder


def answer(url: str) -> str:
    body = {"model": "tiny", "prompt": "a word", "max_tokens": 4, "temperature": 0}
    found = httpx.post(f"{url}/v1/completions", json=body, timeout=60).json()
    return str(found["choices"][0]["text"])


def test_a_version_that_does_not_load_is_told_and_the_one_before_comes_back(
    head: Head, dashboard: Dashboard, work: Path
) -> None:
    at = ("--address", head.url)
    first = head.fastserve("serve", "deploy", "app.yaml", *at, folder=work)
    assert first.code == 0, first.out + first.err
    state = read_serve(dashboard)
    url = f"http://127.0.0.1:{state.http_options['port']}"
    assert f"version 1 of tiny is served at {state.url}" in first.out
    text = answer(url)

    put_application(dashboard, {"applications": [CONFIG]})
    follow(dashboard, "greeting", lambda words: None)
    assert answer(url) == text, "what was there stays"

    second = head.fastserve("serve", "deploy", "app.yaml", "--model", "./broken", *at, folder=work)
    assert second.code == 1
    assert "the model cannot be served" in second.err
    assert f"got: {work / 'broken'}" in second.err, "the replica's own error"
    assert f"to go back: fastserve serve rollback app.yaml --address {head.url}" in second.err
    assert answer(url) == text, "the old version goes on"

    back = head.fastserve("serve", "rollback", "app.yaml", *at, folder=work)
    assert back.code == 0, back.out + back.err
    assert "back to version 1" in back.out
    assert answer(url) == text
    assert httpx.get(f"{url}/greeting", timeout=60).text == "good day", "other applications stay"

    found = head.fastserve("serve", "status", "app.yaml", *at, "--json", folder=work).data
    assert [(version["number"], version["outcome"]) for version in found["versions"]] == [
        (1, "running"),
        (2, "failed"),
        (3, "running"),
    ]
    table = head.fastserve("serve", "status", *at, folder=work).out
    for word in ("tiny", "greeting", "RUNNING", "1 RUNNING", "ingress"):
        assert word in table
    nothing = head.fastserve("serve", "rollback", "app.yaml", *at, folder=work)
    assert nothing.code == 2
    assert "no version before this one has run" in nothing.err


def test_what_serve_refuses_is_told(head: Head, work: Path) -> None:
    flags = ["--set", "name=another", "--address", head.url]
    outcome = head.fastserve("serve", "deploy", "app.yaml", *flags, folder=work)
    assert outcome.code == 1
    assert "tiny" in outcome.err, "who has the path"
