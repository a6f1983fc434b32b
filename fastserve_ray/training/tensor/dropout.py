"""Dropout where heads are cut: each rank draws its own, while outside all ranks draw the same."""

from __future__ import annotations

import torch

_SEEDS = 2**32
"""The generator of the CPU takes the lower 32 bits of a seed."""
_STEP = 0x9E3779B1
"""An odd number, so that every rank has a seed of its own (2^32 over the golden ratio, as in Fibonacci hashing)."""


class HeadDropout:
    """Random numbers of the part of an attention layer that runs on a rank's own heads.

    ``enter`` and ``leave`` change torch's generator. The seed inside is drawn from the generator outside, so that a
    step that is run again from the same state (recomputed activations, a resumed run) draws the same.

    Args:
        rank: in the tensor group.
        device: of the activations.
    """

    def __init__(self, rank: int, device: torch.device) -> None:
        self._rank = rank
        is_cuda = device.type == "cuda"
        index = device.index or 0
        self._generator = torch.cuda.default_generators[index] if is_cuda else torch.default_generator
        self._outside: torch.Tensor | None = None

    def enter(self) -> None:
        """Draw this rank's own from here on."""
        if self._outside is None:
            seed = int(torch.randint(_SEEDS, ()))
            self._outside = self._generator.get_state()
            self._generator.manual_seed((seed + (self._rank + 1) * _STEP) % _SEEDS)

    def leave(self) -> None:
        """Go on as if nothing had been drawn since ``enter``."""
        if self._outside is not None:
            self._generator.set_state(self._outside)
            self._outside = None
