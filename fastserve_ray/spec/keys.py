"""The file of API keys: names, hashes, and what each may use.

A key is 256 random bits, so its plain SHA-256 cannot be turned back by guessing; salt and slow hashing are for
passwords, which people choose.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, ValidationError

from fastserve_ray.errors import Problem, SpecError
from fastserve_ray.spec.base import ListInput, PositiveFloat, PositiveInt, Section
from fastserve_ray.spec.words import listing
from fastserve_ray.spec.yaml_reader import Document, dotted, read_yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pydantic_core import ErrorDetails

    from fastserve_ray.spec.access import AuthSpec

PREFIX = "fsr-"
"""Of a key, so that scanners for secrets can find one that was left somewhere."""
KEY_BYTES = 32
Name = Annotated[str, Field(pattern=r"^[\w.@-]{1,64}$")]


class ApiKey(Section):
    """One key."""

    name: Name
    """Of the client; in usage, logs and metrics, and whose fair share a request takes."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Of the key, in hexadecimal digits."""
    group: Name | None = None
    """The label ``key`` of its metrics, where several keys shall be one series; default: the name."""
    weight: PositiveFloat = 1.0
    """Its share of a busy model, against the weights of others."""
    requests_per_minute: PositiveInt | None = None
    tokens_per_minute: PositiveInt | None = None
    """Prompt and completion together."""
    max_concurrent_requests: PositiveInt | None = None
    """In flight; default: ``serve.limits.max_concurrent_requests``."""
    models: Annotated[tuple[str, ...], ListInput] | None = None
    """Those it may ask; default: all."""
    admin: bool = False
    """Whether it sees the usage of all keys at ``/v1/usage``."""

    @property
    def label(self) -> str:
        """In the metrics."""
        return self.group or self.name


class KeysFile(Section):
    """What the file holds."""

    keys: Annotated[tuple[ApiKey, ...], ListInput, Field(min_length=1)]


def new_key() -> str:
    """A random key."""
    return PREFIX + secrets.token_urlsafe(KEY_BYTES)


def hash_of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def load_keys(auth: AuthSpec, env: Mapping[str, str] | None = None) -> tuple[ApiKey, ...]:
    """The keys that ``auth`` names.

    Raises:
        SpecError: with every problem of the file, or that it cannot be read.
    """
    env = os.environ if env is None else env
    if (auth.keys_file is None) == (auth.keys_env is None):
        raise SpecError([Problem("serve.auth", "one way to give the keys", allowed="keys_file or keys_env")])
    if auth.keys_file is None:
        assert auth.keys_env is not None, "one of both"
        if auth.keys_env not in env:
            raise SpecError([Problem("serve.auth.keys_env", "the environment variable is not set", auth.keys_env)])
        return parse_keys(env[auth.keys_env], f"${auth.keys_env}")
    try:
        text = Path(auth.keys_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        message = f"the file of keys cannot be read: {reason}"
        raise SpecError([Problem("serve.auth.keys_file", message, auth.keys_file)]) from error
    return parse_keys(text, auth.keys_file)


def parse_keys(text: str, file: str) -> tuple[ApiKey, ...]:
    """The keys in YAML text; ``file`` is its name in messages.

    Raises:
        SpecError: with every problem.
    """
    document = read_yaml(text, file=file, env={})
    try:
        found = KeysFile.model_validate(document.data) if not document.problems else None
    except ValidationError as error:
        raise SpecError([_problem(document, detail) for detail in error.errors(include_url=False)]) from None
    problems = [*document.problems, *(_repeated(document, found) if found else ())]
    if problems or found is None:
        raise SpecError(problems)
    return found.keys


def _problem(document: Document, detail: ErrorDetails) -> Problem:
    """No values: one of them may be a key that was written where its hash belongs."""
    path = tuple(detail["loc"])
    mark = document.mark_of(path)
    message, allowed = str(detail["msg"]), None
    if detail["type"] == "extra_forbidden":
        message, allowed = "unknown key", listing(ApiKey.model_fields if len(path) > 1 else KeysFile.model_fields)
    if path[-1:] == ("sha256",):
        message, allowed = "not a SHA-256 in hexadecimal digits", "what `fastserve key NAME` prints"
    return Problem(dotted(path), message, allowed=allowed, file=mark.file, line=mark.line, column=mark.column)


def _repeated(document: Document, found: KeysFile) -> Iterator[Problem]:
    for field in ("name", "sha256"):
        seen: set[str] = set()
        for at, key in enumerate(found.keys):
            value = getattr(key, field)
            if value in seen:
                mark = document.mark_of(("keys", at, field))
                yield Problem(f"keys.{at}.{field}", "stands twice", value, file=mark.file, line=mark.line)
            seen.add(value)
