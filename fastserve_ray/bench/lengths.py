"""Token counts as the command line says them: ``128``, ``uniform:64:512``, ``normal:128:20``, ``lognormal:384:1.5``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastserve_ray.errors import UsageError

if TYPE_CHECKING:
    import random

ALLOWED = "N, uniform:LOW:HIGH, normal:MEAN:DEVIATION, lognormal:MEAN:SIGMA or exponential:MEAN"
ARGUMENTS = {"fixed": 1, "uniform": 2, "normal": 2, "lognormal": 2, "exponential": 1}


@dataclass(frozen=True)
class Lengths:
    """A distribution of token counts, each at least 1."""

    kind: str
    arguments: tuple[float, ...]

    def draw(self, source: random.Random) -> int:
        """One count."""
        return max(1, round(self._value(source)))

    def _value(self, source: random.Random) -> float:
        first = self.arguments[0]
        if self.kind == "fixed":
            return first
        if self.kind == "uniform":
            return source.randint(round(first), round(self.arguments[1]))
        if self.kind == "normal":
            return source.normalvariate(first, self.arguments[1])
        if self.kind == "lognormal":
            return draw_lognormal(source, first, self.arguments[1])
        return source.expovariate(1 / first)


def draw_lognormal(source: random.Random, mean: float, sigma: float) -> float:
    """One draw of the lognormal distribution of this mean; its median is the mean over exp(σ² / 2)."""
    return mean / math.exp(sigma**2 / 2) * source.lognormvariate(0, sigma)


def parse_lengths(text: str, key: str) -> Lengths:
    """The distribution that ``text`` names.

    Args:
        key: the flag, for messages.

    Raises:
        UsageError: no such distribution, or arguments that make no counts.
    """
    kind, _, rest = text.partition(":") if ":" in text else ("fixed", "", text)
    try:
        arguments = tuple(float(word) for word in rest.split(":"))
    except ValueError:
        arguments = ()
    found = Lengths(kind, arguments)
    if len(arguments) != ARGUMENTS.get(kind) or not _is_sound(found):
        raise UsageError("these are no token counts", value=text, allowed=ALLOWED, key=key)
    return found


def _is_sound(lengths: Lengths) -> bool:
    first, *rest = lengths.arguments
    if not all(math.isfinite(value) for value in lengths.arguments) or first < 1:
        return False
    return rest[0] >= first if lengths.kind == "uniform" else all(value >= 0 for value in rest)
