"""A few requests to a served application, with the standard library only."""

from __future__ import annotations

import json
import shlex
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import ServeError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue

    from fastserve_ray.spec.model import TaskName

DEFAULT_PROMPTS: dict[TaskName, str] = {
    "text-generation": "Once upon a time",
    "text-embedding": "How do I reset my password?",
    "text-classification": "A moving and quietly funny film.",
}
SAMPLE_TOKENS = 48
SHOWN_NUMBERS = 4
"""Of a vector."""


@dataclass(frozen=True)
class Sample:
    """A request to show, and to send."""

    path: str
    body: Mapping[str, JsonValue]

    def curl(self, url: str) -> str:
        """The command line that sends it."""
        data = shlex.quote(json.dumps(self.body, ensure_ascii=False))
        return f"curl {url}{self.path} -H 'content-type: application/json' -d {data}"

    def text(self, answer: Mapping[str, Any]) -> str:
        """What the model said, for people."""
        if "data" in answer:
            first = answer["data"][0]
            if "embedding" in first:
                numbers = ", ".join(f"{number:.3f}" for number in first["embedding"][:SHOWN_NUMBERS])
                return f"[{numbers}, ...] of {len(first['embedding'])} dimensions"
            return f"{first['label']} ({first['probs'][first['label']]:.3f})"
        return str(answer["choices"][0]["text"])


def sample_request(task: TaskName, model: str, prompt: str | None = None) -> Sample:
    """One request that every model of ``task`` answers."""
    prompt = prompt if prompt is not None else DEFAULT_PROMPTS[task]
    if task == "text-classification":
        return Sample("/v1/classify", {"model": model, "input": prompt})
    if task == "text-embedding":
        return Sample("/v1/embeddings", {"model": model, "input": prompt})
    body: dict[str, JsonValue] = {"model": model, "prompt": prompt, "max_tokens": SAMPLE_TOKENS, "temperature": 0}
    return Sample("/v1/completions", body)


def post(url: str, body: Mapping[str, JsonValue], timeout_s: float = 300.0) -> dict[str, Any]:
    """The JSON answer.

    Raises:
        ServeError: nobody answers, or the answer is an error; its message is the server's.
    """
    return _send(
        urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"}), timeout_s
    )


def get(url: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """The JSON answer; raises as `post` does."""
    return _send(urllib.request.Request(url), timeout_s)


def _send(request: urllib.request.Request, timeout_s: float) -> dict[str, Any]:
    url = request.full_url
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            answer: dict[str, Any] = json.load(response)
    except urllib.error.HTTPError as error:
        raise ServeError(
            f"the server refused the request ({_message(error)})", value=f"{error.code} from {url}"
        ) from error
    except (OSError, ValueError) as error:
        raise ServeError(f"no answer from the server ({error})", value=url, hint="is it running?") from error
    return answer


def is_ready(url: str, timeout_s: float = 5.0) -> bool:
    """Whether ``/ready`` (or another path given in ``url``) answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


def _message(error: urllib.error.HTTPError) -> str:
    try:
        return str(json.load(error)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return str(error.reason)
