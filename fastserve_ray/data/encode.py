"""Texts to token ids, in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastserve_ray.data.chat import ChatEncoder
from fastserve_ray.data.tokenizer import all_cores

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from fastserve_ray.data.chat import Chat
    from fastserve_ray.events.progress import Progress

BATCH = 512


class Encoder:
    """Encodes the tables of a dataset one after the other and reports how far it is.

    Args:
        tokenizer: a ``PreTrainedTokenizerBase``; its own special tokens are added, as they will be to prompts.
        total: texts in all tables.
    """

    def __init__(self, tokenizer: Any, total: int, progress: Progress) -> None:
        self.tokenizer = tokenizer
        self._total = total
        self._progress = progress
        self._done = 0

    def encode(self, texts: pa.Array, *, max_length: int | None = None) -> Iterator[list[int]]:
        """The ids of each text, cut to ``max_length``."""
        for start in range(0, len(texts), BATCH):
            batch = texts.slice(start, BATCH).to_pylist()
            with all_cores():
                found = self.tokenizer(
                    batch,
                    truncation=max_length is not None,
                    max_length=max_length,
                    return_attention_mask=False,
                    return_token_type_ids=False,
                    verbose=False,
                )
            yield from found["input_ids"]
            self._done += len(batch)
            self._progress(step=self._done, total=self._total, message="tokenizing")

    def conversations(self, texts: pa.Array) -> Iterator[Chat]:
        """Each text, a conversation as ``data.chat`` writes it, with what of it is an answer."""
        encoder = ChatEncoder(self.tokenizer)
        for text in texts.to_pylist():
            yield encoder.encode(text)
            self._done += 1
            if self._done % BATCH == 0 or self._done == self._total:
                self._progress(step=self._done, total=self._total, message="tokenizing")
