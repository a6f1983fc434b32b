"""Free ports, and a clear word when the one asked for is taken."""

from __future__ import annotations

import socket

from fastserve_ray.errors import ServeError

EVERY_INTERFACE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""Listening addresses that are no destination, and where this machine reaches them."""


def choose_port(host: str, port: int) -> int:
    """``port`` if it can be listened on, a free one for 0.

    Raises:
        ServeError: in use, not permitted, or ``host`` is no address of this machine.
    """
    try:
        return _try_port(host, port)
    except socket.gaierror as error:
        raise ServeError("the host has no address", value=host, key="serve.host") from error
    except OSError as error:
        if port == 0:
            raise ServeError(f"cannot listen on this host ({error.strerror})", value=host, key="serve.host") from error
        raise ServeError(
            f"the port cannot be used ({error.strerror})",
            value=f"{host}:{port}",
            allowed=f"a free port, for example {_free_port()}; 0 takes any",
            key="serve.port",
            hint="stop what listens there, or give another port",
        ) from error


def base_url(host: str, port: int, route_prefix: str = "/") -> str:
    """Where this machine reaches the application; no slash at the end."""
    host = EVERY_INTERFACE.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}{route_prefix.rstrip('/')}"


def _try_port(host: str, port: int) -> int:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port that was just left is free
        probe.bind((host, port))
        probe.listen(1)
        return int(probe.getsockname()[1])


def _free_port() -> int:
    return _try_port("127.0.0.1", 0)
