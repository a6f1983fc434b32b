"""What users hand to the Python face as "a model"."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from fastserve_ray.models.loading import LoadedModel


def module_of(model: Any) -> nn.Module:
    """The torch module of a model: a ``LoadedModel``, or a module itself.

    Raises:
        UsageError: it is neither.
    """
    from torch import nn

    from fastserve_ray.models.loading import LoadedModel

    if isinstance(model, LoadedModel):
        return model.model
    if isinstance(model, nn.Module):
        return model
    raise UsageError(
        "this is no model",
        value=type(model).__name__,
        allowed="what load_model returns, or a torch module",
        key="model",
    )


def loaded(model: Any) -> LoadedModel:
    """A model with its tokenizer: a ``LoadedModel``, or the name of one to load.

    Raises:
        UsageError: a bare module, which has no tokenizer.
        ModelError: it cannot be loaded.
    """
    from fastserve_ray.models.loading import LoadedModel
    from fastserve_ray.sdk.models import load_model

    if isinstance(model, LoadedModel):
        return model
    if isinstance(model, str | Path):
        return load_model(model)
    raise UsageError(
        "this model comes without a tokenizer",
        value=type(model).__name__,
        allowed="what load_model returns, a hub id or a folder",
        key="model",
    )
