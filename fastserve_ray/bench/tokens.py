"""How many tokens a prompt has: asked of the server's ``/tokenize``, or of a tokenizer on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fastserve_ray.bench.server import RequestError
from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from fastserve_ray.bench.client import Endpoint
    from fastserve_ray.bench.server import Server


class TokenCounter(Protocol):
    """Turns a prompt into tokens as the server does: with special tokens, or a chat's template around it."""

    async def ids(self, text: str) -> list[int]:
        """Raises:
        UsageError: this cannot be done here.
        """
        ...


class ServerCounter:
    """``/tokenize`` as vLLM and this project have it."""

    def __init__(self, server: Server, model: str, endpoint: Endpoint) -> None:
        self._server, self._model, self._is_chat = server, model, endpoint == "chat"

    async def ids(self, text: str) -> list[int]:
        asked: dict[str, Any] = {"prompt": text}
        if self._is_chat:
            asked = {"messages": [{"role": "user", "content": text}]}
        try:
            answer = await self._server.ask("POST", "/tokenize", {"model": self._model, **asked})
            return list(answer["tokens"])
        except RequestError as error:
            raise UsageError(
                f"the server does not count tokens ({error.failure.detail})",
                value=f"{self._server.url}/tokenize",
                key="--tokenizer",
                hint="name the model's folder or hub id, so that prompts get their lengths here",
            ) from error
        except (KeyError, TypeError) as error:
            raise UsageError(
                "/tokenize answers in another form than vLLM's", value=self._server.url, key="--tokenizer"
            ) from error


class LocalCounter:
    """A tokenizer of transformers.

    Args:
        source: a model folder or a hub id.

    Raises:
        UsageError: there is none, or it has no chat template and the endpoint is ``chat``.
    """

    def __init__(self, source: str, endpoint: Endpoint) -> None:
        from transformers import AutoTokenizer

        try:
            self._tokenizer: Any = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"there is no tokenizer ({str(error).splitlines()[0]})",
                value=source,
                allowed="a model folder or a hub id",
                key="--tokenizer",
            ) from error
        self._is_chat = endpoint == "chat"
        if self._is_chat and not self._tokenizer.chat_template:
            raise UsageError("this tokenizer has no chat template", value=source, key="--tokenizer, --endpoint")

    async def ids(self, text: str) -> list[int]:
        if not self._is_chat:
            return list(self._tokenizer(text)["input_ids"])
        messages = [{"role": "user", "content": text}]
        rendered = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return list(self._tokenizer(rendered, add_special_tokens=False)["input_ids"])
