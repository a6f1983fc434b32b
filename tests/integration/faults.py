"""Requests in flight and processes to kill, for the tests of faults."""

from __future__ import annotations

import json
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from threading import Event
from typing import Any

import httpx
import psutil
import ray

BACK_S = 60.0
"""By then full service is back."""
CLOSED = (httpx.NetworkError, httpx.RemoteProtocolError)
"""What httpx says of a connection that the server closed; its time-outs mean that the server hangs."""
PROMPT = "the cat sat on the"


def processes(title: str) -> list[psutil.Process]:
    """Of this test's Ray: the actors whose processes are called so."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(f"ray::{title}"):
                found.append(process)
        except psutil.Error:
            continue
    return found


def the_process(title: str) -> psutil.Process:
    (process,) = processes(title)
    return process


def num_in_replica(app: str) -> int:
    """Requests that the only replica of the application and model ``app`` has."""
    from ray.serve._private.constants import SERVE_NAMESPACE

    from fastserve_ray.serve.app import deployment_name

    names = [actor["name"] for actor in ray.util.list_named_actors(all_namespaces=True)]
    (name,) = [name for name in names if name.startswith(f"SERVE_REPLICA::{app}#{deployment_name(app)}#")]
    replica = ray.get_actor(name, namespace=SERVE_NAMESPACE)
    return int(ray.get(replica.get_num_ongoing_requests.remote(), timeout=30))


@dataclass
class Seen:
    """What a client saw of one request."""

    text: str = ""
    status: int | None = None
    error: dict[str, Any] | None = None
    is_closed_early: bool = False
    """The connection ended before the answer did."""
    is_done: bool = False
    """All of the answer came."""
    has_begun: Event = field(default_factory=Event)


class Clients:
    """Each request once, without retries."""

    def __init__(self, url: str, max_tokens: int) -> None:
        self._url = f"{url}/v1/completions"
        self._max_tokens = max_tokens
        self._pool = ThreadPoolExecutor(32)

    def whole(self, max_tokens: int) -> Future[Seen]:
        return self._pool.submit(self._whole, Seen(), max_tokens)

    def stream(self) -> tuple[Seen, Future[Seen]]:
        seen = Seen()
        return seen, self._pool.submit(self._stream, seen)

    def begun_stream(self) -> Future[Seen]:
        """A stream of which the client has the first tokens."""
        seen, future = self.stream()
        assert seen.has_begun.wait(60), "the stream did not begin"
        return future

    def _whole(self, seen: Seen, max_tokens: int) -> Seen:
        try:
            response = httpx.post(self._url, json=self._body(max_tokens, stream=False), timeout=120)
        except CLOSED:
            seen.is_closed_early = True
            return seen
        seen.status = response.status_code
        if response.is_success:
            seen.is_done = True
            (choice,) = response.json()["choices"]
            seen.text = choice["text"]
        else:
            seen.error = openai_error(response.json())
        return seen

    def _stream(self, seen: Seen) -> Seen:
        body = self._body(self._max_tokens, stream=True)
        try:
            with httpx.stream("POST", self._url, json=body, timeout=120) as response:
                seen.status = response.status_code
                for line in response.iter_lines():
                    self._read(line, seen)
        except CLOSED:
            seen.is_closed_early = True
        return seen

    @staticmethod
    def _read(line: str, seen: Seen) -> None:
        assert not (seen.is_done or seen.error) or not line, "something came after the end"
        data = line.removeprefix("data: ")
        if data == "[DONE]":
            seen.is_done = True
        elif "error" in (event := json.loads(data) if data else {}):
            seen.error = openai_error(event)
        elif event:
            seen.text += event["choices"][0]["text"]
            if seen.text:
                seen.has_begun.set()

    def _body(self, max_tokens: int, *, stream: bool) -> dict[str, Any]:
        return {"model": "tiny", "prompt": PROMPT, "max_tokens": max_tokens, "temperature": 0, "stream": stream}


def openai_error(body: dict[str, Any]) -> dict[str, Any]:
    error = body["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return dict(error)
