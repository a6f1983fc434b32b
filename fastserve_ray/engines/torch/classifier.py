"""The batch engine for text classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.engines.protocol import Prediction
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fastserve_ray.spec.serve import EngineSpec

MAX_PADDING = 8
"""Padding tokens of a row at most. Sorted by length, rows that differ more go into another batch: padding costs as
much as text, and a row's rounding depends on the batch's width."""


class TorchClassifier:
    """Runs a sequence classifier of transformers; see `protocol.BatchEngine`.

    Rows are sorted by length, batched with little padding (on the right, masked), and put back in order. At most
    ``max_num_seqs`` rows and ``max_num_batched_tokens`` tokens go into one batch. A prediction is the same whatever
    else is in the call, up to rounding. A text without any token is read as one end-of-text token.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: EngineSpec) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._labels = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
        self._max_length = _max_length(model, tokenizer, spec.max_model_len)
        self._max_tokens = max(spec.max_num_batched_tokens, self._max_length)
        # Without a padding token decoder-only classifiers cannot tell where a row ends.
        self._max_rows = spec.max_num_seqs if model.config.pad_token_id is not None else 1
        self._pad_token_id = model.config.pad_token_id or 0

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def count_tokens(self, text: str) -> int:
        return len(self._encode([text])[0])

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        if not texts:
            return []
        rows = self._encode(texts)
        predictions: dict[int, Prediction] = {}
        for batch in self._batches(rows):
            scores = self._scores([rows[index] for index in batch])
            predictions.update(zip(batch, map(self._prediction, scores), strict=True))
        return [predictions[index] for index in range(len(texts))]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        encoded: list[list[int]] = self._tokenizer(
            list(texts), truncation=True, max_length=self._max_length, padding=False, add_special_tokens=True
        )["input_ids"]
        return [ids or [self._tokenizer.eos_token_id or self._pad_token_id] for ids in encoded]

    def _batches(self, rows: Sequence[Sequence[int]]) -> Iterator[list[int]]:
        """Indices of ``rows``, in batches of similar length, shortest first."""
        batch: list[int] = []
        for index in sorted(range(len(rows)), key=lambda index: len(rows[index])):
            length = len(rows[index])
            is_full = len(batch) == self._max_rows or (len(batch) + 1) * length > self._max_tokens
            if batch and (is_full or length > len(rows[batch[0]]) + MAX_PADDING):
                yield batch
                batch = []
            batch.append(index)
        yield batch

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Sequence[int]]) -> list[list[float]]:
        """Probabilities (len(rows), labels)."""
        width = max(len(row) for row in rows)
        ids = [[*row, *[self._pad_token_id] * (width - len(row))] for row in rows]
        mask = [[1] * len(row) + [0] * (width - len(row)) for row in rows]
        output = self._model(
            input_ids=torch.tensor(ids, device=self._model.device),
            attention_mask=torch.tensor(mask, device=self._model.device),
        )
        logits = output.logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise EngineError("the classifier's logits are not finite (NaN or infinite)")
        scores: list[list[float]] = logits.softmax(dim=-1).tolist()
        return scores

    def _prediction(self, scores: list[float]) -> Prediction:
        label_id = max(range(len(scores)), key=scores.__getitem__)
        return Prediction(label=self._labels[label_id], label_id=label_id, scores=tuple(scores))


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
