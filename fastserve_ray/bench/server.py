"""An OpenAI-compatible server over HTTP: its models, its tokenizer, and completions as streams of events.

aiohttp and not httpx: it parses in C, and reads a stream at a fifth of the processor time, which a client beside its
server takes away from it.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

import aiohttp

from fastserve_ray.bench.records import Failure, FailureKind
from fastserve_ray.bench.sse import error_message
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from types import TracebackType

CONNECT_TIMEOUT_S = 10.0
QUESTION_TIMEOUT_S = 60.0
"""For what is asked beside the load: models, tokens."""
KINDS = {429: FailureKind.RATE_LIMITED, 503: FailureKind.OVERLOADED}
LOST = (aiohttp.ClientConnectionError, aiohttp.ClientPayloadError, ConnectionError)


class RequestError(Exception):
    """A request that failed, with its failure."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.detail)
        self.failure = failure

    def __reduce__(self) -> tuple[type[RequestError], tuple[Failure]]:
        return type(self), (self.failure,)


class Server:
    """A session with one server; as many connections as there are requests.

    Args:
        url: with or without ``/v1`` at its end.
        timeout_s: for a whole request of the load.

    Raises:
        UsageError: the address is none of HTTP.
    """

    def __init__(self, url: str, *, api_key: str | None = None, timeout_s: float = 600.0) -> None:
        if not url.startswith(("http://", "https://")):
            raise UsageError("this is no address of a server", value=url, allowed="http://HOST:PORT", key="URL")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._timeout_s = timeout_s

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=None),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        )
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        await self._session.close()

    async def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """The JSON answer to one question.

        Raises:
            RequestError: no answer, an error, or no JSON.
        """
        try:
            async with (
                asyncio.timeout(QUESTION_TIMEOUT_S),
                self._session.request(method, self.url + path, json=body) as response,
            ):
                await raise_for(response)
                return await response.json(content_type=None)
        except LOST as error:
            raise RequestError(Failure(FailureKind.CONNECTION, _words(error))) from error
        except TimeoutError as error:
            raise RequestError(Failure(FailureKind.TIMEOUT, f"no answer in {QUESTION_TIMEOUT_S:g} s")) from error
        except (ValueError, aiohttp.ClientError) as error:
            raise RequestError(Failure(FailureKind.SERVER_ERROR, f"no JSON ({_words(error)})")) from error

    @asynccontextmanager
    async def stream(self, path: str, body: bytes) -> AsyncIterator[aiohttp.StreamReader]:
        """The bytes of an answer as they come.

        Raises:
            RequestError: it is refused, or there is no connection, or the time is over, also while it is read.
        """
        has_begun = False
        headers = {"content-type": "application/json"}
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._session.post(self.url + path, data=body, headers=headers) as response,
            ):
                await raise_for(response)
                if "event-stream" not in response.headers.get("content-type", ""):
                    raise RequestError(Failure(FailureKind.SERVER_ERROR, "the answer is no stream of events"))
                has_begun = True
                yield response.content
        except LOST as error:
            kind = FailureKind.BROKEN_STREAM if has_begun else FailureKind.CONNECTION
            raise RequestError(Failure(kind, _words(error))) from error
        except TimeoutError as error:
            raise RequestError(Failure(FailureKind.TIMEOUT, f"not done in {self._timeout_s:g} s")) from error
        except aiohttp.ClientError as error:
            raise RequestError(Failure(FailureKind.SERVER_ERROR, _words(error))) from error


async def raise_for(response: aiohttp.ClientResponse) -> None:
    """Raises:
    RequestError: the status says so.
    """
    if response.status < 400:
        return
    text = (await response.read()).decode(errors="replace")
    try:
        message = error_message(json.loads(text))
    except ValueError:
        message = text[:300]
    kind = KINDS.get(response.status, FailureKind.SERVER_ERROR if response.status >= 500 else FailureKind.REFUSED)
    wait = _seconds(response.headers.get("retry-after"))
    raise RequestError(Failure(kind, f"{response.status}: {message}", response.status, wait))


def _seconds(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None  # a date: the other form of Retry-After


def _words(error: BaseException) -> str:
    return str(error) or type(error).__name__
