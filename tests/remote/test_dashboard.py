"""Addresses and answers that are not those of a Ray dashboard; the real one answers in tests/integration."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import FastServeError, UsageError
from fastserve_ray.remote.dashboard import Dashboard, dashboard_url
from fastserve_ray.remote.token import Token

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("http://head:8265/", "http://head:8265"),
        ("https://head", "https://head"),
        ("head:8265", "http://head:8265"),
    ],
)
def test_addresses(address: str, url: str) -> None:
    assert dashboard_url(address, None) == url


@pytest.mark.parametrize("address", ["ray://head:10001", "http://", "ftp://head"])
def test_addresses_of_another_kind(address: str) -> None:
    with pytest.raises(UsageError, match="no address of a Ray dashboard") as caught:
        dashboard_url(address, None)
    assert caught.value.value == address


def test_the_flag_comes_before_the_file_and_that_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    with pytest.raises(UsageError, match="which cluster"):
        Dashboard.at(None)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://third:1")
    assert Dashboard.at(None).url == "http://third:1"
    assert Dashboard.at(None, "http://second:1").url == "http://second:1"
    assert Dashboard.at("http://first:1", "http://second:1").url == "http://first:1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>a web page</html>")

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def another_server() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_another_server_is_told_apart() -> None:
    with another_server() as url:
        dashboard = Dashboard(url, Token("secret", "a test"))
        with pytest.raises(FastServeError, match="not that of a Ray dashboard") as caught:
            dashboard.versions()
    assert "<html>" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_nobody_answers() -> None:
    with pytest.raises(FastServeError, match="no Ray dashboard answers") as caught:
        Dashboard("http://127.0.0.1:1", None).versions()
    assert "ray start --head" in str(caught.value)
    assert "--address" in str(caught.value)
