"""Request bodies, read more strictly than Python's ``json`` does.

It takes NaN and lone surrogates (``"\\ud800"``), which are no JSON and no text: a tokenizer cannot read them, and no
answer can repeat them.
"""

from __future__ import annotations

from json import JSONDecodeError
from typing import TYPE_CHECKING, Any

from fastapi import Request
from fastapi.routing import APIRoute
from pydantic_core import from_json

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from fastapi import Response


class StrictRequest(Request):
    async def json(self) -> Any:
        """The body.

        Raises:
            JSONDecodeError: it is not JSON in UTF-8.
        """
        if not hasattr(self, "_strict"):
            try:
                self._strict = from_json(await self.body(), allow_inf_nan=False)
            except ValueError as error:
                raise JSONDecodeError(str(error), "", 0) from error
        return self._strict


class StrictRoute(APIRoute):
    """A route whose body is read by `StrictRequest`."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_strictly(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return handle_strictly
