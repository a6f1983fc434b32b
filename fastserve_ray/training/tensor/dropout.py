"""Dropout where heads are cut: each rank draws its own, while outside all ranks draw the same."""

from __future__ import annotations

import torch

_SEED_BITS = 48


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
            seed = int(torch.randint(2**_SEED_BITS, ()))
            self._outside = self._generator.get_state()
            self._generator.manual_seed(seed + (self._rank + 1) * 2**_SEED_BITS)

    def leave(self) -> None:
        """Go on as if nothing had been drawn since ``enter``."""
        if self._outside is not None:
            self._generator.set_state(self._outside)
            self._outside = None
