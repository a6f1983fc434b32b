"""Who may ask an application, and how large a request may be: what the door is told."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.middleware.cors import CORSMiddleware

from fastserve_ray.serve.auth.door import Door
from fastserve_ray.serve.auth.table import KeyTable
from fastserve_ray.serve.auth.watch import KeysWatch
from fastserve_ray.spec.access import LimitsSpec
from fastserve_ray.spec.keys import load_keys

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastserve_ray.spec.keys import ApiKey
    from fastserve_ray.spec.serve import ServeSpec

EXPOSED_HEADERS = ("x-request-id", "openai-processing-ms", "retry-after")
"""What scripts of a web page may read of an answer."""


@dataclass(frozen=True)
class Access:
    """Crosses from the process that deploys to the one that answers HTTP: hashes, no keys."""

    keys: tuple[ApiKey, ...] | None = None
    """None: everybody may ask."""
    max_body_bytes: int = LimitsSpec().max_body_bytes
    cors_origins: tuple[str, ...] = ()
    """Web pages of these origins may ask from a browser."""
    keys_file: str | None = None
    """Where ``keys`` are from, and what is looked at for others; None: a variable of the environment."""


def access_of(spec: ServeSpec) -> Access:
    """Reads the file of keys.

    Raises:
        SpecError: it cannot be read, or is wrong.
    """
    keys = None if spec.auth is None else load_keys(spec.auth)
    file = None if spec.auth is None or spec.auth.keys_file is None else str(Path(spec.auth.keys_file).absolute())
    return Access(keys, spec.limits.max_body_bytes, spec.cors_origins, file)


def add_door(app: FastAPI, access: Access) -> None:
    keys = None if access.keys is None else KeyTable(access.keys)
    if keys is not None and access.keys_file is not None:
        KeysWatch(Path(access.keys_file), keys).start()
    app.add_middleware(Door, keys=keys, max_body_bytes=access.max_body_bytes)
    if access.cors_origins:  # outside the door: a browser asks first, without a key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=EXPOSED_HEADERS,
        )
