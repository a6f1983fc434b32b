"""``compress``: steps that make the model smaller, in order."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import ListInput, PositiveFloat, Section


class PruneStep(Section):
    """Set the smallest weights to zero (magnitude pruning, Han et al. 2015, arXiv 1506.02626)."""

    kind: Literal["prune"]
    method: Literal["magnitude"] = "magnitude"
    sparsity: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Part of each matrix that becomes zero. Either this or ``threshold``."""
    threshold: PositiveFloat | None = None
    """Weights with a smaller magnitude become zero."""
    scope: Literal["layer", "global"] = "layer"
    """Reach ``sparsity`` in every matrix, or over all matrices together."""
    exclude: Annotated[tuple[str, ...], ListInput] = ()
    """Name patterns (fnmatch) of linear layers to leave alone."""


class QuantizeStep(Section):
    """Store the weights of linear layers in 8-bit integers with a scale for each output channel."""

    kind: Literal["quantize"]
    scheme: Literal["int8-dynamic", "int8-weight-only"] = "int8-dynamic"
    """int8-dynamic also quantizes activations at run time, and multiplies in int8; int8-weight-only does not."""
    exclude: Annotated[tuple[str, ...], ListInput] = ()
    """Name patterns (fnmatch) of linear layers to leave in floating point."""


CompressStep = Annotated[PruneStep | QuantizeStep, Field(discriminator="kind")]
