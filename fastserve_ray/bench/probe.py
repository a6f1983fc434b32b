"""Before the load: is there such a server, does it serve the model, and which fields does it take?"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from fastserve_ray.bench.client import EXTRAS, Form, Request, send
from fastserve_ray.bench.records import FailureKind
from fastserve_ray.bench.server import RequestError
from fastserve_ray.errors import ServeError, UsageError

if TYPE_CHECKING:
    from fastserve_ray.bench.client import Endpoint, Prompt
    from fastserve_ray.bench.records import Failure
    from fastserve_ray.bench.server import Server

PROBE_TOKENS = 2
BUSY = (FailureKind.RATE_LIMITED, FailureKind.OVERLOADED)
BUSY_TRIES = 5
WAIT_S = 1.0
"""Between tries when the server does not say how long."""
MAX_WAIT_S = 60.0
"""A server that asks to wait longer is not waited for."""


async def find_model(server: Server, name: str | None) -> str:
    """``name``, or the only model that is served.

    Raises:
        ServeError: nobody answers, or not as an OpenAI-compatible server does.
        UsageError: the model is not served, several are and none is named, or the key is refused.
    """
    try:
        answer = await server.ask("GET", "/v1/models")
        served = [str(card["id"]) for card in answer["data"]]
    except RequestError as error:
        raise _explained(error.failure, server) from error
    except (KeyError, TypeError) as error:
        raise ServeError("/v1/models does not answer as OpenAI's does", value=server.url, key="URL") from error
    if name is None and len(served) == 1:
        return served[0]
    if name is None or name not in served:
        what = "several models are served; name one" if name is None else "this model is not served"
        raise UsageError(what, value=name, allowed=", ".join(served) or "there is none", key="--model")
    return name


def _explained(failure: Failure, server: Server) -> ServeError | UsageError:
    if failure.kind is FailureKind.CONNECTION:
        return ServeError(
            f"no server answers ({failure.detail})",
            value=server.url,
            key="URL",
            hint="is it running, and the port right?",
        )
    if failure.status in (401, 403):
        return UsageError(f"the server refuses the key ({failure.detail})", value=server.url, key="--api-key")
    if failure.status == 404:
        return ServeError(
            f"there is no OpenAI-compatible server here ({failure.detail})",
            value=f"{server.url}/v1/models",
            allowed="the address before /v1",
            key="URL",
        )
    return ServeError(f"the server does not answer as it should ({failure.detail})", value=server.url)


async def find_form(server: Server, model: str, endpoint: Endpoint, prompt: Prompt, temperature: float) -> Form:
    """How this server wants its requests: one is sent, and again without the fields that it does not know.

    Raises:
        ServeError, UsageError: it takes none.
    """
    form = Form(model, endpoint, EXTRAS, temperature)
    tries_left = BUSY_TRIES
    while True:
        request = Request(0, None, 0, PROBE_TOKENS, form.body(prompt, PROBE_TOKENS))
        failure = (await send(server, form.path, request, 0.0)).failure
        if failure is None or (failure.kind is FailureKind.EMPTY and failure.status is None):
            return form
        wait_s = WAIT_S if failure.retry_after_s is None else failure.retry_after_s
        if failure.kind in BUSY and tries_left and wait_s <= MAX_WAIT_S:
            tries_left -= 1
            await asyncio.sleep(wait_s)
        elif failure.status in (400, 422) and form.extras:
            form = replace(form, extras=_without_refused(form.extras, failure.detail))
        else:
            raise _refused(failure, server, form)


def _without_refused(extras: tuple[str, ...], message: str) -> tuple[str, ...]:
    """Without the fields that the message names, or without all, least standard ones first, when it names none."""
    named = [name for name in extras if name in message]
    refused = named or [name for name in extras if name != "stream_options"] or extras
    return tuple(name for name in extras if name not in refused)


def _refused(failure: Failure, server: Server, form: Form) -> ServeError | UsageError:
    if failure.status == 404:
        return UsageError(
            f"the model cannot be asked here ({failure.detail})", value=f"{form.model} at {form.path}", key="--endpoint"
        )
    if failure.status in (None, 401, 403):
        return _explained(failure, server)
    return ServeError(f"the server does not take a small request ({failure.detail})", value=server.url + form.path)
