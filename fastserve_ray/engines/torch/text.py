"""From tokens to the text that a client sees: detokenize, then watch for stop strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.detokenize import Detokenizer
    from fastserve_ray.engines.torch.stop import StopMatcher


class TextStream:
    """The text of one completion."""

    def __init__(self, detokenizer: Detokenizer, stop: StopMatcher) -> None:
        self._detokenizer = detokenizer
        self._stop = stop

    def push(self, token_id: int, *, may_stop: bool = True) -> tuple[str, bool]:
        """Text that is final after this token, and whether a stop string ended the completion.

        Args:
            may_stop: whether stop strings count yet; text that came before they did is not searched.
        """
        text = self._detokenizer.push(token_id)
        return self._stop.push(text) if may_stop else (text, False)

    def flush(self) -> tuple[str, bool]:
        """The rest of the text, when the completion ends for another reason; its end may complete a stop string."""
        text, stopped = self._stop.push(self._detokenizer.flush())
        return (text, True) if stopped else (text + self._stop.flush(), False)
