from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import UsageError
from fastserve_ray.remote.token import find_token

if TYPE_CHECKING:
    from pathlib import Path


def test_the_order_is_that_of_ray(tmp_path: Path) -> None:
    (tmp_path / ".ray").mkdir()
    env = {"HOME": str(tmp_path)}
    assert find_token(env) is None
    (tmp_path / ".ray" / "auth_token").write_text("of-home\n")
    token = find_token(env)
    assert token is not None
    assert (token.value, token.source) == ("of-home", "~/.ray/auth_token")
    (tmp_path / "other").write_text("of-path")
    env["RAY_AUTH_TOKEN_PATH"] = str(tmp_path / "other")
    token = find_token(env)
    assert token is not None
    assert token.value == "of-path"
    assert "RAY_AUTH_TOKEN_PATH" in token.source
    env["RAY_AUTH_TOKEN"] = "of-variable"
    token = find_token(env)
    assert token is not None
    assert token.headers == {"Authorization": "Bearer of-variable"}
    assert "of-variable" not in repr(token)
    assert find_token({**env, "RAY_AUTH_MODE": "disabled"}) is None


def test_a_path_without_a_token_is_named() -> None:
    with pytest.raises(UsageError, match="holds no token") as caught:
        find_token({"RAY_AUTH_TOKEN_PATH": "/nowhere/token"})
    assert caught.value.value == "/nowhere/token"
    assert "ray get-auth-token" in str(caught.value)
