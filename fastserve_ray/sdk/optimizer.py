"""``DeploymentOptimizer``: the fastest form of a model that still answers alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastserve_ray.compress.measure import interleaved_latencies, tensor_bytes
from fastserve_ray.models.quantized import INT8_LAYERS
from fastserve_ray.sdk.compression import Quantization
from fastserve_ray.sdk.handles import module_of

if TYPE_CHECKING:
    import torch

FLOAT = "float"


@dataclass(frozen=True)
class Candidate:
    """One form of the model, measured beside the others in one run."""

    name: str
    latency_ms: float
    """Median of a forward pass."""
    tensor_bytes: int
    agreement: float
    """Share of most probable answers (tokens or labels) equal to the given model's."""


class DeploymentOptimizer:
    """Measures the model as it is and with int8 layers, and chooses.

    Args:
        model: what ``load_model`` returned, or a transformers module.
    """

    def __init__(self, model: Any) -> None:
        module_of(model)
        self._model = model
        self.candidates: tuple[Candidate, ...] = ()
        """What the last ``optimize`` measured."""
        self.chosen: str | None = None

    def optimize(
        self,
        *,
        min_agreement: float = 0.95,
        batch: dict[str, torch.Tensor] | None = None,
        batch_size: int = 8,
        num_tokens: int = 64,
    ) -> Any:
        """The fastest candidate among those that agree with the model as it is.

        Args:
            min_agreement: share of equal answers that a candidate must reach on ``batch``.
            batch: ``input_ids`` and ``attention_mask`` to measure on; random tokens of shape
                (``batch_size``, ``num_tokens``) when left out.

        Returns:
            the model itself or a quantized copy; ``candidates`` and ``chosen`` say why.
        """
        batch = batch or self._random_batch(batch_size, num_tokens)
        models = {FLOAT: self._model} | {name: Quantization(self._model).apply(scheme=name) for name in INT8_LAYERS}
        modules = {name: module_of(model) for name, model in models.items()}
        latencies = interleaved_latencies(modules, batch)
        answers = {name: _answers(module, batch) for name, module in modules.items()}
        self.candidates = tuple(
            Candidate(
                name,
                latencies[name],
                tensor_bytes(module),
                float((answers[name] == answers[FLOAT]).float().mean()),
            )
            for name, module in modules.items()
        )
        fit = [candidate for candidate in self.candidates if candidate.agreement >= min_agreement]
        self.chosen = min(fit, key=lambda candidate: candidate.latency_ms).name
        return models[self.chosen]

    def _random_batch(self, batch_size: int, num_tokens: int) -> dict[str, torch.Tensor]:
        import torch

        config: Any = module_of(self._model).config
        length = min(num_tokens, getattr(config, "max_position_embeddings", None) or num_tokens)
        generator = torch.Generator().manual_seed(0)
        input_ids = torch.randint(config.vocab_size, (batch_size, length), generator=generator)
        return {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


def _answers(module: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    import torch

    with torch.inference_mode():
        answers: torch.Tensor = module.eval()(**batch).logits.argmax(-1)
    return answers
