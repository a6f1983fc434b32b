"""``verify``: the proof that the served model is the trained one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fastserve_ray.spec.base import PositiveInt, Section


class VerifySpec(Section):
    """Golden inputs replayed through the serving engine, and a quality gate against the trained parent."""

    max_drop: dict[str, Annotated[float, Field(ge=0)]] = {}
    """By metric: how much worse than the trained parent the model may be, in the metric's own unit."""
    golden_inputs: PositiveInt = 16
    """Validation inputs replayed through the engine."""
    golden_tokens: PositiveInt = 16
    """Tokens generated greedily for each golden input (text generation)."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Part of the golden outputs (tokens, labels) that must equal the trained parent's. An uncompressed model must
    reach 1 whatever this says."""
