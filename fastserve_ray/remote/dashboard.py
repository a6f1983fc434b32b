"""The HTTP interface of a cluster's head, and what goes wrong in reaching it, in words."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import httpx

from fastserve_ray.errors import FastServeError, UsageError
from fastserve_ray.remote.token import HOW, find_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fastserve_ray.remote.token import Token

KEY = "--address or cluster.address"
ALLOWED = "http://HEAD:8265, or auto for the Ray that runs on this machine"
ADDRESS_ENV = "RAY_API_SERVER_ADDRESS"
"""Ray's own name for the variable; the flag and the file's key come before it."""
TIMEOUT_S = 30.0
SHOWN_CHARACTERS = 400
"""Of an answer that nobody expected."""


@dataclass(frozen=True)
class Dashboard:
    """Where a cluster is asked. Every method raises FastServeError when nobody answers, the token is not the right one,
    or the answer is not Ray's."""

    url: str
    """Without a slash at the end."""
    token: Token | None

    @classmethod
    def at(cls, address: str | None, given: str | None = None) -> Dashboard:
        """Of the cluster at ``address`` (a flag), else ``given`` (the file's), else ``RAY_API_SERVER_ADDRESS``.

        Raises:
            UsageError: there is no address, or it is none of a dashboard.
        """
        address = address or given or os.environ.get(ADDRESS_ENV)
        if not address:
            raise UsageError("which cluster?", allowed=ALLOWED, key=KEY)
        token = find_token()
        return cls(dashboard_url(address, token), token)

    def get(self, path: str, **query: str | int) -> Any:
        """The JSON at ``path``."""
        return self._json(self._send("GET", path, params=query))

    def put(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        """The answer, whatever its status."""
        return self._send("PUT", path, json=body)

    def versions(self) -> dict[str, str]:
        """``rayVersion`` and ``pythonVersion`` of the head."""
        found: dict[str, str] = self.get("/api/v0/cluster_metadata")["data"]
        return found

    def _send(self, method: str, path: str, **options: Any) -> httpx.Response:
        headers = {} if self.token is None else self.token.headers
        try:
            answer = httpx.request(method, self.url + path, headers=headers, timeout=TIMEOUT_S, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise FastServeError(
                "no Ray dashboard answers",
                value=f"{self.url} ({error})",
                key=KEY,
                hint="start the head with `ray start --head --dashboard-host 0.0.0.0`; its port is 8265 unless told",
            ) from error
        self._check_token(answer)
        return answer

    def _check_token(self, answer: httpx.Response) -> None:
        if answer.status_code == 401:
            raise FastServeError("this cluster asks for a token, and none was found", value=self.url, hint=HOW)
        if answer.status_code == 403 and "token" in answer.text:
            source = "none" if self.token is None else self.token.source
            raise FastServeError("this cluster refuses the token", value=f"the one from {source}", hint=HOW)

    def _json(self, answer: httpx.Response) -> Any:
        try:
            answer.raise_for_status()
            return answer.json()
        except (httpx.HTTPStatusError, ValueError) as error:
            raise FastServeError(
                "this answer is not that of a Ray dashboard",
                value=f"{answer.status_code} from {answer.url}: {answer.text[:SHOWN_CHARACTERS]}",
                key=KEY,
            ) from error


def dashboard_url(address: str, token: Token | None) -> str:
    """``address`` as a URL.

    Raises:
        UsageError: it is one of another kind, or ``auto`` finds no Ray.
    """
    if address == "auto":
        return _local_url(token)
    scheme, separator, rest = address.partition("://")
    if not separator:
        scheme, rest = "http", address
    if scheme not in ("http", "https") or not rest.strip("/"):
        raise UsageError("this is no address of a Ray dashboard", value=address, allowed=ALLOWED, key=KEY)
    return f"{scheme}://{rest.rstrip('/')}"


def _local_url(token: Token | None) -> str:
    """Ray knows where the dashboard of the cluster on this machine is."""
    if token is not None:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # before ray reads it
    from ray.dashboard.utils import ray_address_to_api_server_url

    try:
        return str(ray_address_to_api_server_url("auto"))
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UsageError(
            "no Ray with a dashboard runs on this machine", value=str(error).splitlines()[0], allowed=ALLOWED, key=KEY
        ) from error
