"""``serve.auth`` and ``serve.limits``: who may ask, and how much one request may ask for."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import PositiveInt, Section

RequestLog = Literal["off", "facts", "texts"]
MAX_CHOICES = 16
"""Choices for one prompt at most."""


class AuthSpec(Section):
    """API keys; without this section everybody may ask. One of the two keys is given."""

    keys_file: str | None = None
    """A YAML file of keys, which holds their hashes only; ``fastserve key NAME`` makes an entry."""
    keys_env: str | None = None
    """The name of an environment variable with the text of such a file, for example from a secret."""


class LimitsSpec(Section):
    """How much one request, and one client, may ask for."""

    max_body_bytes: PositiveInt = 8 * 2**20
    """A request with a larger body is answered with 413, before it is read."""
    max_prompt_tokens: PositiveInt | None = None
    """A longer prompt is answered with 400; default: what the model's context takes."""
    max_choices: Annotated[int, Field(gt=0, le=MAX_CHOICES)] = MAX_CHOICES
    """A larger ``n`` is answered with 400."""
    max_concurrent_requests: PositiveInt | None = None
    """Requests of one API key in flight, streams among them, or of all clients together where there are no keys; one
    more is answered with 429. An entry of the keys' file may say otherwise. Default: no limit."""
