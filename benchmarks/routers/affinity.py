"""Ray's prefix router for calls whose prompts are tokens: each token is a character of the text that its tree holds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.llm._internal.serve.routing_policies.prefix_aware.prefix_aware_router import PrefixCacheAffinityRouter

if TYPE_CHECKING:
    from ray.serve.request_router import PendingRequest

FIRST_CHARACTER = 0x10000


class TokenAffinityRouter(PrefixCacheAffinityRouter):
    """As it is but for where the prompt is found."""

    def _extract_text_from_request(self, pending_request: PendingRequest) -> str:
        prompts = getattr(pending_request.args[0], "prompts", None) or ((),)
        return "".join(chr(FIRST_CHARACTER + int(token)) for token in prompts[0])
