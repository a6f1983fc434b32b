"""Sizes as people read them."""

from __future__ import annotations


def size_in_words(size: int | None) -> str:
    """``12.3 MiB``; ``?`` when it is not known, ``-`` for nothing."""
    if size is None:
        return "?"
    if size == 0:
        return "-"
    amount = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if amount >= 100 or unit == "B" else f"{amount:.3g} {unit}"
        amount /= 1024
    return f"{amount:.3g} TiB"
