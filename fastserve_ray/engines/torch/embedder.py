"""The batch engine for text embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.engines.protocol import Embedding
from fastserve_ray.engines.torch.rows import Row, Rows
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from fastserve_ray.models.pooling import Pooling
    from fastserve_ray.spec.serve import EngineSpec


class TorchEmbedder:
    """Runs an encoder (or a decoder) of transformers; see `protocol.EmbeddingEngine`.

    A vector is the same whatever else is in the call, up to rounding; see `rows.Rows` for how texts share batches.
    """

    def __init__(self, model: Any, tokenizer: Any, pooling: Pooling, spec: EngineSpec) -> None:
        self._model = model.eval()
        self._pooling = pooling
        self._rows = Rows(model, tokenizer, spec)
        self._vocabulary = int(model.get_input_embeddings().weight.shape[0])
        try:
            self._dimensions = int(self._vectors([[0]]).shape[1])
        except (TypeError, ValueError, AttributeError) as error:
            raise EngineError(
                f"this model makes no token vectors ({error})",
                value=model.config.model_type,
                allowed="an encoder such as BERT, or a decoder",
                key="model.base",
            ) from error

    @property
    def dimensions(self) -> int:
        return self._dimensions

    @property
    def max_length(self) -> int:
        """Tokens of a text at most."""
        return min(self._rows.max_length, self._pooling.max_length or self._rows.max_length)

    @property
    def vocabulary(self) -> int:
        return self._vocabulary

    def encode(self, inputs: Sequence[str | tuple[int, ...]], *, cuts: bool = False) -> list[tuple[int, ...]]:
        limit = self.max_length if cuts else None
        rows = iter(self._rows.encode([item for item in inputs if isinstance(item, str)], limit=limit))
        return [tuple(next(rows)) if isinstance(item, str) else item[:limit] for item in inputs]

    def embed(self, rows: Sequence[tuple[int, ...]]) -> list[Embedding]:
        vectors: dict[int, Embedding] = {}
        for batch in self._rows.batches(rows):
            for index, vector in zip(batch, self._vectors([rows[index] for index in batch]), strict=True):
                vectors[index] = Embedding(vector.tobytes())
        return [vectors[index] for index in range(len(rows))]

    @torch.inference_mode()
    def _vectors(self, rows: Sequence[Sequence[int]]) -> np.ndarray[Any, np.dtype[np.float32]]:
        """float32 (len(rows), dimensions)."""
        inputs = self._rows.tensors([Row(ids) for ids in rows])
        hidden = self._model(**inputs).last_hidden_state.float()
        vectors = self._pooled(hidden, inputs["attention_mask"])
        if not bool(torch.isfinite(vectors).all()):
            raise EngineError("the embeddings are not finite (NaN or infinite)")
        if self._pooling.normalizes:
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
        numbers: np.ndarray[Any, np.dtype[np.float32]] = vectors.cpu().numpy().astype("<f4")
        return numbers

    def _pooled(self, hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """(rows, tokens, dimensions) to (rows, dimensions)."""
        if self._pooling.mode == "cls":
            return hidden[:, 0]
        if self._pooling.mode == "lasttoken":
            return hidden[torch.arange(len(hidden)), mask.sum(dim=1) - 1]
        kept = mask[..., None].bool()
        if self._pooling.mode == "max":
            return hidden.masked_fill(~kept, -torch.inf).amax(dim=1)
        return hidden.masked_fill(~kept, 0).sum(dim=1) / mask.sum(dim=1, keepdim=True)
