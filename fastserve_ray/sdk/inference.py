"""``create_engine``: an inference engine over a model in memory."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, cast

from fastserve_ray.engines.offline import complete_texts
from fastserve_ray.engines.protocol import Prediction, SamplingParams
from fastserve_ray.errors import UsageError
from fastserve_ray.sdk.handles import loaded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.protocol import BatchEngine, EmbeddingEngine, GenerateEngine


class InferenceEngine:
    """Answers lists of texts: completions for a generating model, predictions for a classifier."""

    def __init__(self, engine: Any, task: str) -> None:
        self._engine = engine
        self.task = task

    def predict(
        self, texts: Sequence[str], *, max_tokens: int = 32, temperature: float = 0.0, seed: int | None = None
    ) -> list[Any]:
        """One answer for each text, in order.

        Args:
            texts: prompts, or texts to classify.
            max_tokens, temperature, seed: of generation; a classifier ignores them.

        Returns:
            ``list[str]`` of completions, ``list[Prediction]``, or vectors as ``list[tuple[float, ...]]``.

        Raises:
            EngineError: a prompt is empty or longer than the model allows.
        """
        if isinstance(texts, str):
            raise UsageError("predict takes a list of texts", value=texts, allowed="a list", key="texts")
        if self.task == "text-classification":
            return list(self._classify(texts))
        if self.task == "text-embedding":
            embedder = cast("EmbeddingEngine", self._engine)
            return [vector.numbers for vector in embedder.embed(embedder.encode(texts, cuts=True))]
        sampling = SamplingParams(max_tokens=max_tokens, temperature=temperature, seed=seed)
        engine = cast("GenerateEngine", self._engine)
        return [completion.text for completion in complete_texts(engine, texts, sampling)]

    def _classify(self, texts: Sequence[str]) -> list[Prediction]:
        return cast("BatchEngine", self._engine).predict(texts)


def create_engine(model: Any, engine: str = "torch") -> InferenceEngine:
    """An engine for a model: what ``load_model`` returned (a copy is taken), a hub id or a folder.

    Args:
        engine: only "torch", the continuous-batching engine that also serves.

    Raises:
        UsageError: an unknown engine.
        EngineError: the engine cannot run this model; the message says why.
    """
    from fastserve_ray.engines.table import ENGINES

    if engine not in ENGINES:
        raise UsageError("unknown engine", value=engine, allowed=", ".join(ENGINES), key="engine")
    from fastserve_ray.engines.torch.classifier import TorchClassifier
    from fastserve_ray.engines.torch.embedder import TorchEmbedder
    from fastserve_ray.engines.torch.factory import build_generate_engine
    from fastserve_ray.models.pooling import Pooling
    from fastserve_ray.spec import EngineSpec

    source = loaded(model)
    if source.task == "text-classification":
        return InferenceEngine(TorchClassifier(source.model, source.tokenizer, EngineSpec()), source.task)
    if source.task == "text-embedding":
        pooling = source.pooling or Pooling()
        return InferenceEngine(TorchEmbedder(source.model, source.tokenizer, pooling, EngineSpec()), source.task)
    module = copy.deepcopy(source.model)  # the engine replaces the attention of the model that it gets
    return InferenceEngine(build_generate_engine(module, source.tokenizer, EngineSpec()), source.task)
