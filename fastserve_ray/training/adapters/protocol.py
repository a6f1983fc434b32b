"""What an adapter does for the training loop."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import torch

State = dict[str, "torch.Tensor"]


@dataclass(frozen=True)
class Occasion:
    """What an adapter may need to know of the run."""

    task: str
    total_steps: int
    seed: int
    base: str | None
    """Hub id or folder of the base; None for a model from scratch."""
    tokenizer: Any


class Adapter(Protocol):
    """Made with the spec's section and an ``Occasion``; belongs to one model."""

    is_mergeable: bool
    """Whether a plain model of the base's class can hold what was learned."""

    def attach(self, model: Any) -> torch.nn.Module:
        """The module to train. Only what is trained requires gradients; the same weights on every worker.

        Raises:
            ModelError: the adapter does not fit the model.
        """
        ...

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Called once with the optimizer over the trained parameters, whose hooks it may use."""
        ...

    def merged(self, module: Any, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """A model of the base's class on the CPU that computes what ``module`` with the weights ``state`` does; only
        where ``is_mergeable``."""
        ...

    def save(self, module: Any, state: Mapping[str, torch.Tensor], tokenizer: Any, folder: Path) -> None:
        """Write base and adapter; only where not ``is_mergeable``."""
        ...
