"""The token of a Ray cluster that asks for one, found where Ray itself looks.

``ray start`` asks every client for a token as soon as the machine of the head has one (``RAY_AUTH_MODE`` unset), and an
embedded Ray makes one. Ray's own HTTP clients send a token only where ``RAY_AUTH_MODE=token`` is set; these here send
the one that they find, unless ``RAY_AUTH_MODE=disabled``.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

MODE = "RAY_AUTH_MODE"
TOKEN = "RAY_AUTH_TOKEN"
TOKEN_PATH = "RAY_AUTH_TOKEN_PATH"
DEFAULT_PATH = Path("~/.ray/auth_token")
HOW = (
    f"a token is taken from {TOKEN}, else from the file that {TOKEN_PATH} names, else from {DEFAULT_PATH}; "
    "on the head's machine `ray get-auth-token` prints the right one"
)


@dataclass(frozen=True)
class Token:
    """What a client shows."""

    value: str = field(repr=False)
    source: str
    """Where it was found, in words."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.value}"}


def find_token(env: Mapping[str, str] | None = None) -> Token | None:
    """The token of this user, in Ray's order; None where there is none, or where ``RAY_AUTH_MODE`` is ``disabled``.

    Raises:
        UsageError: ``RAY_AUTH_TOKEN_PATH`` names no file with a token.
    """
    env = os.environ if env is None else env
    if env.get(MODE, "").lower() == "disabled":
        return None
    if value := env.get(TOKEN, "").strip():
        return Token(value, TOKEN)
    if named := env.get(TOKEN_PATH):
        value = _read(Path(named).expanduser())
        if not value:
            raise UsageError("this file holds no token", value=named, key=TOKEN_PATH, hint=HOW)
        return Token(value, f"{named} ({TOKEN_PATH})")
    value = _read(Path(env.get("HOME", "~")).expanduser() / ".ray" / DEFAULT_PATH.name)
    return Token(value, str(DEFAULT_PATH)) if value else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
