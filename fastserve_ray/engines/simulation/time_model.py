"""How long a step takes by what it reads: linear in rows, tokens and context.

The fixed part is the reading of the weights, which all sequences of a step share; rows and prompt tokens cost
arithmetic; context costs the reading of keys and values. What is bent in a real machine (caches, kernels chosen by
size) is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.engines.torch.scheduler import StepPlan

FAR_APART = 512
"""Tokens between which the slope of a profile is taken."""


@dataclass(frozen=True)
class StepLoad:
    """What a step reads and moves."""

    num_decode_rows: int
    """Sequences that read one token."""
    num_prompt_tokens: int
    """Tokens of longer chunks."""
    num_context_tokens: int
    """Keys and values that its sequences look at, in all."""
    num_swapped_blocks: int = 0

    @classmethod
    def of(cls, plan: StepPlan) -> StepLoad:
        lengths = [chunk.num_tokens for chunk in plan.chunks]
        return cls(
            num_decode_rows=lengths.count(1),
            num_prompt_tokens=sum(length for length in lengths if length > 1),
            num_context_tokens=sum(chunk.start + chunk.num_tokens for chunk in plan.chunks),
            num_swapped_blocks=len(plan.kv.swap_in) + len(plan.kv.swap_out),
        )


@dataclass(frozen=True)
class TimeModel:
    """Seconds of a step: ``fixed + row·rows + prompt_token·tokens + context_token·context``, none below 0.

    Swaps run beside the step, so only what they take longer than it is added.
    """

    fixed: float
    row: float
    prompt_token: float
    context_token: float = 0.0
    swapped_block: float = 0.0

    @classmethod
    def from_profile(cls, profile: Profile) -> TimeModel:
        """A row costs what a further prompt token does; the rest of the shortest iteration is fixed."""
        token = (profile.prefill_seconds(2 * FAR_APART) - profile.prefill_seconds(FAR_APART)) / FAR_APART
        return cls(fixed=max(0.0, profile.decode_seconds - token), row=token, prompt_token=token)

    @classmethod
    def fit(cls, steps: Sequence[tuple[StepLoad, float]]) -> TimeModel:
        """Least squares over measured steps, relative to each one's seconds, so that short ones count too.

        Costs that come out negative are left out, the most negative one first, until none is.

        Raises:
            ValueError: no step was measured.
        """
        if not steps:
            raise ValueError("a time model is fitted to at least one measured step")
        loads = np.array([[1, s.num_decode_rows, s.num_prompt_tokens, s.num_context_tokens] for s, _ in steps], float)
        seconds = np.array([seconds for _, seconds in steps])
        columns = list(range(loads.shape[1]))
        while True:
            weighted = loads[:, columns] / seconds[:, None]
            costs = np.linalg.lstsq(weighted, np.ones(len(steps)), rcond=None)[0]
            worst = int(costs.argmin())
            if costs[worst] >= 0:
                break
            del columns[worst]
        by_column = dict(zip(columns, costs.tolist(), strict=True))
        return cls(*(by_column.get(column, 0.0) for column in range(loads.shape[1])))

    def compute_seconds(self, load: StepLoad) -> float:
        """Without swaps; 0 for a step that reads nothing."""
        if load.num_decode_rows + load.num_prompt_tokens == 0:
            return 0.0
        tokens = self.row * load.num_decode_rows + self.prompt_token * load.num_prompt_tokens
        return self.fixed + tokens + self.context_token * load.num_context_tokens

    def waiting_seconds(self, load: StepLoad) -> float:
        """What swaps add."""
        return max(0.0, self.swapped_block * load.num_swapped_blocks - self.compute_seconds(load))
