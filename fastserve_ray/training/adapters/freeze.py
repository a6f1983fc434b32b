"""Parameters that stay as they are, by name pattern."""

from __future__ import annotations

import difflib
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from fastserve_ray.errors import ModelError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

KEY = "train.freeze"
_SHOWN = 3


def freeze(model: torch.nn.Module, patterns: Sequence[str]) -> None:
    """Switch gradients off for every parameter that a pattern matches (fnmatch on its full name; a tied parameter has
    the first of its names).

    Raises:
        ModelError: a pattern matches nothing, or all is frozen.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        found = [name for name in names if fnmatchcase(name, pattern)]
        if not found:
            raise _no_match(pattern, names)
        for name in found:
            model.get_parameter(name).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ModelError(
            "nothing is left to train", value=", ".join(patterns), allowed="patterns that leave some out", key=KEY
        )


def _no_match(pattern: str, names: Sequence[str]) -> ModelError:
    near = difflib.get_close_matches(pattern, [*names, *_groups(names)], n=_SHOWN, cutoff=0.4)
    return ModelError(
        "no parameter of this model has such a name",
        value=pattern,
        allowed="an fnmatch pattern over full names, for example " + ", ".join(_groups(names)[:_SHOWN]),
        key=KEY,
        hint=f"near: {', '.join(near)}" if near else None,
    )


def _groups(names: Sequence[str]) -> list[str]:
    """``model.embed_tokens.*``, ``model.layers.*``: what people freeze."""
    return list(dict.fromkeys(".".join([*name.split(".")[:2], "*"]) for name in names if name.count(".") >= 2))
