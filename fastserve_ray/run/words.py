"""Numbers and durations as people read them."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_METRICS = 4


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3m 05s``, ``2h 07m``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}m {rest:02d}s"
    return f"{minutes // 60}h {minutes % 60:02d}m"


def rate(per_second: float) -> str:
    """``85``, ``3.2k``, ``1.5M``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if per_second >= limit:
            return f"{per_second / limit:.1f}{unit}"
    return f"{per_second:.0f}"


def size(count: int) -> str:
    """``850 MiB``, ``1.2 GiB``."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def number(value: object) -> str:
    """Four significant digits for floats, everything else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def metrics_line(metrics: Mapping[str, object]) -> str:
    """A few metrics, quality first: ``eval_loss 3.214  eval_accuracy 0.41``."""
    names = sorted(metrics, key=lambda name: (not name.startswith("eval_"), list(metrics).index(name)))
    return "  ".join(f"{name} {number(metrics[name])}" for name in names[:MAX_METRICS])
