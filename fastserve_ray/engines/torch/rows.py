"""Texts as rows of tokens in batches with little padding, for models that read a text in one go."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence, Sized

    from fastserve_ray.engines.protocol import Text
    from fastserve_ray.spec.serve import EngineSpec

MAX_PADDING = 8
"""Padding tokens of a row at most. Sorted by length, rows that differ more go into another batch: padding costs as
much as text, and a row's rounding depends on the batch's width."""


TYPES = "token_type_ids"


@dataclass(frozen=True)
class Row:
    """One text, or a pair, in tokens."""

    ids: Sequence[int]
    types: Sequence[int] | None = None
    """Of a pair, to which of the two each token belongs, for models that are told so."""

    def __len__(self) -> int:
        return len(self.ids)


class Rows:
    """Rows are sorted by length, batched with little padding (on the right, masked), and put back in order. At most
    ``max_num_seqs`` rows and ``max_num_batched_tokens`` tokens go into one batch."""

    def __init__(self, model: Any, tokenizer: Any, spec: EngineSpec) -> None:
        self._device = model.device
        self._tokenizer = tokenizer
        self.max_length = _max_length(model, tokenizer, spec.max_model_len)
        """Tokens of a text at most."""
        self._max_tokens = max(spec.max_num_batched_tokens, self.max_length)
        # Without a padding token decoder-only models cannot tell where a row ends.
        self._max_rows = spec.max_num_seqs if model.config.pad_token_id is not None else 1
        has_two = (getattr(model.config, "type_vocab_size", None) or 0) > 1
        self._has_types = has_two and TYPES in tokenizer.model_input_names
        self._pad_token_id = model.config.pad_token_id or 0
        self._end = tokenizer.eos_token_id or self._pad_token_id

    def encode(self, texts: Sequence[str], *, limit: int | None) -> list[list[int]]:
        """Tokens of each text; one without any is read as one end-of-text token.

        Args:
            limit: tokens to cut longer texts to, at their end.
        """
        if not texts:
            return []
        encoded: list[list[int]] = self._tokenizer(
            list(texts),
            truncation=limit is not None,
            max_length=limit,
            padding=False,
            add_special_tokens=True,
            verbose=False,
        )["input_ids"]
        return [ids or [self._end] for ids in encoded]

    def encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Row]:
        """Tokens of each pair. Of one that is longer than ``max_length`` the longer text is cut at its end."""
        if not pairs:
            return []
        encoded = self._tokenizer(
            [first for first, _ in pairs],
            [second for _, second in pairs],
            truncation="longest_first",
            max_length=self.max_length,
            padding=False,
            return_token_type_ids=self._has_types,
            verbose=False,
        )
        types = encoded.get(TYPES) or [None] * len(pairs)
        return [Row(ids or [self._end], its_types) for ids, its_types in zip(encoded["input_ids"], types, strict=True)]

    def encode_all(self, texts: Sequence[Text]) -> list[Row]:
        """Tokens of texts and of pairs, cut to ``max_length``."""
        singles = iter(self.encode([text for text in texts if isinstance(text, str)], limit=self.max_length))
        pairs = iter(self.encode_pairs([text for text in texts if not isinstance(text, str)]))
        return [Row(next(singles)) if isinstance(text, str) else next(pairs) for text in texts]

    def batches(self, rows: Sequence[Sized]) -> Iterator[list[int]]:
        """Indices of ``rows``, in batches of similar length, shortest first; none is empty."""
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
            length = len(rows[index])
            is_full = len(batch) == self._max_rows or (len(batch) + 1) * length > self._max_tokens
            if batch and (is_full or length > len(rows[batch[0]]) + MAX_PADDING):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def tensors(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """``input_ids`` and ``attention_mask``, int64 (len(rows), longest row); of pairs ``token_type_ids`` too, where
        the model is told them."""
        found = {
            "input_ids": self._padded([row.ids for row in rows], self._pad_token_id),
            "attention_mask": self._padded([[1] * len(row) for row in rows], 0),
        }
        if any(row.types is not None for row in rows):
            found[TYPES] = self._padded([row.types or [0] * len(row) for row in rows], 0)
        return found

    def _padded(self, rows: Sequence[Sequence[int]], filling: int) -> torch.Tensor:
        width = max(len(row) for row in rows)
        return torch.tensor([[*row, *[filling] * (width - len(row))] for row in rows], device=self._device)


def _max_length(model: Any, tokenizer: Any, asked: int | None) -> int:
    """Tokens of an input at most: the least of what is asked and what positions and tokenizer allow."""
    limits = [limit for limit in (asked, _positions(model), tokenizer.model_max_length) if limit is not None]
    return int(min(limits))


def _positions(model: Any) -> int | None:
    """Positions of the model; families that number them after the padding index (RoBERTa) lose those before."""
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return int(module.num_embeddings - module.padding_idx - 1)
    positions = getattr(model.config, "max_position_embeddings", None)
    return None if positions is None else int(positions)
