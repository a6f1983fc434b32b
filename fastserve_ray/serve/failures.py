"""What can go wrong with a request, as a value that crosses processes and becomes OpenAI's error.

A refused request is no exception in the replica: a value is cheaper to send, and Serve logs no traceback for a
client's mistake.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from fastserve_ray.engines.protocol import SamplingParams
from fastserve_ray.errors import EngineFullError
from fastserve_ray.serve.wire.base import UNSUPPORTED, ErrorAnswer, ErrorBody

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from fastserve_ray.errors import FastServeError

RETRY_AFTER_S = 1
"""What an overloaded or restarting server asks clients to wait."""

OVERLOADED = "overloaded"
"""Code of a request that found too many others before it."""

CODES = {
    "missing": "missing_required_parameter",
    "extra_forbidden": "unknown_parameter",
    UNSUPPORTED: UNSUPPORTED,
}
"""pydantic's error types as OpenAI's codes; the rest is ``invalid_value``."""


FIELDS = {
    **{field.name: field.name for field in fields(SamplingParams) if field.name != "constraint"},
    "prompt": "prompt",
}
"""The engine's names of what a request may say, as the request's fields."""


@dataclass(frozen=True)
class Failure:
    """Why a request was not answered."""

    status: int
    message: str
    param: str | None = None
    code: str | None = None
    retry_after_s: int | None = None
    kind: str | None = None
    """OpenAI's error type; default: by the status."""
    may_retry: bool = False
    """Nothing is wrong with the request: another replica may answer it."""
    replica: str | None = None
    """Id of the actor that was lost, where it is known."""

    @property
    def type(self) -> str:
        if self.kind is not None:
            return self.kind
        return "invalid_request_error" if self.status < 500 else "server_error"

    def body(self) -> ErrorAnswer:
        return ErrorAnswer(error=ErrorBody(message=self.message, type=self.type, param=self.param, code=self.code))

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"retry-after": str(self.retry_after_s)}


class RequestFailed(Exception):  # noqa: N818 - the name of the event, raised and caught inside the ingress only
    """Carries a failure to the place that answers."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure

    def __reduce__(self) -> tuple[type[RequestFailed], tuple[Failure]]:
        return type(self), (self.failure,)


def invalid(message: str, *, param: str | None = None, code: str | None = None) -> Failure:
    """400: the client has to change the request."""
    return Failure(400, message, param, code)


def context_length_exceeded(num_prompt_tokens: int, max_tokens: int | None, max_model_len: int, param: str) -> Failure:
    """In OpenAI's words, by which clients know it."""
    total = num_prompt_tokens + (max_tokens or 0)
    parts = f"{num_prompt_tokens} in the {param}"
    if max_tokens is not None:
        parts += f", {max_tokens} in the completion"
    asked = f"you requested {total} tokens ({parts})"
    message = f"This model's maximum context length is {max_model_len} tokens. However, {asked}."
    return invalid(message, param=param, code="context_length_exceeded")


def unknown_model(name: str, known: Sequence[str]) -> Failure:
    return Failure(
        404, f"the model {name!r} does not exist; served here: {', '.join(known)}", "model", "model_not_found"
    )


def not_json(content_type: str | None) -> Failure:
    """415."""
    sent = "without a content-type" if content_type is None else f"as {content_type[:80]!r}"
    return Failure(
        415,
        f"the body must be sent with content-type: application/json; it came {sent}",
        code="unsupported_content_type",
    )


def overloaded(message: str, retry_after_s: int = RETRY_AFTER_S) -> Failure:
    return Failure(503, message, code=OVERLOADED, retry_after_s=retry_after_s)


def unavailable(message: str) -> Failure:
    return Failure(503, message, code="unavailable", retry_after_s=RETRY_AFTER_S)


def lost(replica: str | None = None) -> Failure:
    """The replica of a request has ended before it answered.

    Args:
        replica: id of its actor.
    """
    message = "the replica that ran this request was lost; try again"
    return Failure(503, message, code="unavailable", retry_after_s=RETRY_AFTER_S, may_retry=True, replica=replica)


def timed_out(seconds: float) -> Failure:
    return Failure(504, f"the request took longer than {seconds:g} s and was cancelled", code="timeout")


def internal(message: str) -> Failure:
    return Failure(500, message, code="internal_error")


def of_engine(error: FastServeError, constraint_field: str = "response_format") -> Failure:
    """What an engine says about a request: an error that names a field of the request is the client's.

    Args:
        constraint_field: the request's field that the constraint comes from.
    """
    if isinstance(error, EngineFullError):
        return overloaded("the engine has too many requests waiting; try again later")
    message = error.what if error.value is None else f"{error.what} (got {error.value})"
    param = constraint_field if error.key == "constraint" else FIELDS.get(error.key or "")
    if param is not None:
        allowed = f"; allowed: {error.allowed}" if error.allowed is not None else ""
        return invalid(message + allowed, param=param, code="invalid_value")
    return internal(message)


def of_validation(errors: Sequence[Mapping[str, Any]], known_fields: Sequence[str] = ()) -> Failure:
    """pydantic's findings about a request body: the first field that is wrong, with all that is said about it."""
    from difflib import get_close_matches

    first = errors[0]
    if first["type"] == "json_invalid":
        return invalid(f"the body is not valid JSON: {first.get('ctx', {}).get('error', 'cannot be parsed')}")
    path = _path(first)
    if not path and "param" not in first.get("ctx", {}):
        return invalid("the body must be a JSON object, sent with content-type: application/json")
    param = str(path[0] if path else first["ctx"]["param"])
    code = CODES.get(first["type"], "invalid_value")
    if first["type"] == "extra_forbidden":
        message = f"unknown parameter: {_dotted(path)!r}"
        near = get_close_matches(param, known_fields, n=1) if len(path) == 1 else []
        return invalid(message + (f"; did you mean {near[0]!r}?" if near else ""), param=_dotted(path), code=code)
    found = [error for error in errors if _path(error)[:1] == path[:1]]
    reasons = list(dict.fromkeys(_reason(error) for error in found))
    return invalid(f"{_dotted(path[:1]) or param}: {'; or '.join(reasons)}", param=param, code=code)


def _path(error: Mapping[str, Any]) -> tuple[str | int, ...]:
    location = tuple(error["loc"])
    return location[1:] if location[:1] in {("body",), ("path",), ("query",)} else location


def _dotted(path: Sequence[str | int]) -> str:
    return ".".join(map(str, path))


def _reason(error: Mapping[str, Any]) -> str:
    value = error.get("input")
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool) and len(repr(value)) <= 80 else ""
    message = str(error["msg"])
    return message[:1].lower() + message[1:] + (shown if error["type"] != "missing" else "")
