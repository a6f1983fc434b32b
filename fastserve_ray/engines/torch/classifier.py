"""The batch engine for text classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.engines.protocol import Prediction
from fastserve_ray.engines.torch.rows import Rows
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.protocol import Text
    from fastserve_ray.engines.torch.rows import Row
    from fastserve_ray.spec.serve import EngineSpec


class TorchClassifier:
    """Runs a sequence classifier of transformers; see `protocol.BatchEngine`.

    A prediction is the same whatever else is in the call, up to rounding; see `rows.Rows` for how texts share batches.
    """

    def __init__(self, model: Any, tokenizer: Any, spec: EngineSpec) -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._labels = tuple(str(model.config.id2label[index]) for index in range(model.config.num_labels))
        self._rows = Rows(model, tokenizer, spec)

    @property
    def labels(self) -> tuple[str, ...]:
        return self._labels

    @property
    def tokenizer(self) -> Any:
        return self._tokenizer

    def count_tokens(self, text: Text) -> int:
        return len(self._rows.encode_all([text])[0])

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        if not texts:
            return []
        rows = self._rows.encode_all(texts)
        predictions: dict[int, Prediction] = {}
        for batch in self._rows.batches(rows):
            scores = self._scores([rows[index] for index in batch])
            predictions.update(zip(batch, map(self._prediction, scores), strict=True))
        return [predictions[index] for index in range(len(texts))]

    @torch.inference_mode()
    def _scores(self, rows: Sequence[Row]) -> list[list[float]]:
        """(len(rows), labels): probabilities, or one label's score between 0 and 1."""
        logits = self._model(**self._rows.tensors(rows)).logits.float()
        if not bool(torch.isfinite(logits).all()):
            raise EngineError("the classifier's logits are not finite (NaN or infinite)")
        scores: list[list[float]] = (logits.sigmoid() if len(self._labels) == 1 else logits.softmax(dim=-1)).tolist()
        return scores

    def _prediction(self, scores: list[float]) -> Prediction:
        label_id = max(range(len(scores)), key=scores.__getitem__)
        return Prediction(label=self._labels[label_id], label_id=label_id, scores=tuple(scores))
