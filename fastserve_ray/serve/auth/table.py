"""From a request's header to the entry of its API key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.serve.failures import Failure, RequestFailed
from fastserve_ray.spec.keys import hash_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from fastserve_ray.spec.keys import ApiKey

SCHEME = "bearer"


class KeyTable:
    """The keys of an application.

    A key is found by its hash, so the time of the look-up tells nothing about keys: who tries keys does not know by
    which digits their hashes differ from one in the table.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.replace(keys)

    def replace(self, keys: Iterable[ApiKey]) -> None:
        """Other keys from now on; any thread may call it."""
        self._by_hash = {key.sha256: key for key in keys}

    def find(self, authorization: str | None) -> ApiKey:
        """The entry of the key in an ``Authorization`` header.

        Raises:
            RequestFailed: 401, there is none or it is not known. The message never repeats it.
        """
        scheme, _, secret = (authorization or "").partition(" ")
        if scheme.lower() != SCHEME or not secret.strip():
            raise RequestFailed(
                Failure(401, "an API key is needed, in the header Authorization: Bearer KEY", code="missing_api_key")
            )
        found = self._by_hash.get(hash_of(secret.strip()))
        if found is None:
            raise RequestFailed(Failure(401, "this API key is not known here", code="invalid_api_key"))
        return found


def check_model(key: ApiKey | None, model: str) -> None:
    """Raises:
    RequestFailed: 403, the key may not ask this model.
    """
    if key is not None and key.models is not None and model not in key.models:
        allowed = ", ".join(key.models) or "none"
        message = f"the key {key.name!r} may not use the model {model!r}; it may use: {allowed}"
        raise RequestFailed(Failure(403, message, "model", "model_not_allowed"))
