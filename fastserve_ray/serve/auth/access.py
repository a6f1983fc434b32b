"""Who may ask an application, and how large a request may be: what the door is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.serve.auth.door import Door
from fastserve_ray.serve.auth.table import KeyTable
from fastserve_ray.spec.access import LimitsSpec
from fastserve_ray.spec.keys import load_keys

if TYPE_CHECKING:
    from fastapi import FastAPI

    from fastserve_ray.spec.keys import ApiKey
    from fastserve_ray.spec.serve import ServeSpec


@dataclass(frozen=True)
class Access:
    """Crosses from the process that deploys to the one that answers HTTP: hashes, no keys."""

    keys: tuple[ApiKey, ...] | None = None
    """None: everybody may ask."""
    max_body_bytes: int = LimitsSpec().max_body_bytes


def access_of(spec: ServeSpec) -> Access:
    """Reads the file of keys.

    Raises:
        SpecError: it cannot be read, or is wrong.
    """
    return Access(None if spec.auth is None else load_keys(spec.auth), spec.limits.max_body_bytes)


def add_door(app: FastAPI, access: Access) -> None:
    keys = None if access.keys is None else KeyTable(access.keys)
    app.add_middleware(Door, keys=keys, max_body_bytes=access.max_body_bytes)
