"""Ports and addresses."""

from __future__ import annotations

import socket

import pytest

from fastserve_ray.errors import ServeError
from fastserve_ray.serve.ports import base_url, choose_port


def test_zero_takes_a_free_port() -> None:
    port = choose_port("127.0.0.1", 0)
    assert port > 0
    assert choose_port("127.0.0.1", port) == port


def test_a_port_in_use_is_refused_with_a_free_one() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        with pytest.raises(ServeError, match="cannot be used") as caught:
            choose_port("127.0.0.1", port)
    assert caught.value.key == "serve.port"
    assert caught.value.allowed is not None
    free = int("".join(filter(str.isdigit, caught.value.allowed.split(";")[0])))
    assert choose_port("127.0.0.1", free) == free


def test_a_host_of_another_machine_is_refused() -> None:
    with pytest.raises(ServeError) as caught:
        choose_port("192.0.2.1", 0)  # reserved for documentation (RFC 5737)
    assert caught.value.key == "serve.host"


@pytest.mark.parametrize(
    ("host", "prefix", "url"),
    [
        ("127.0.0.1", "/", "http://127.0.0.1:80"),
        ("0.0.0.0", "/", "http://127.0.0.1:80"),
        ("::1", "/llm", "http://[::1]:80/llm"),
    ],
)
def test_base_url(host: str, prefix: str, url: str) -> None:
    assert base_url(host, 80, prefix) == url
