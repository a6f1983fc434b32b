"""Names and sizes as Kubernetes takes them."""

from __future__ import annotations

import hashlib
import re

from fastserve_ray.spec.nodes import bytes_of

MAX_NAME = 47
"""Characters of a RayJob's name; KubeRay makes longer ones of it, which end at Kubernetes' 63."""
DIGEST_CHARS = 6


def kubernetes_name(name: str) -> str:
    """A run's name as that of a Kubernetes object: a letter first, then letters, digits and dashes, 47 at most. Names
    that differ stay different."""
    plain = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    legal = plain if plain[:1].isalpha() else f"app-{plain}"
    if legal == name and len(legal) <= MAX_NAME:
        return legal
    digest = hashlib.sha256(name.encode()).hexdigest()[:DIGEST_CHARS]
    return f"{legal[: MAX_NAME - DIGEST_CHARS - 1].rstrip('-')}-{digest}"


def share_of(quantity: str, divisor: int) -> str:
    """A part of a size, in whole MiB."""
    return f"{bytes_of(quantity) // divisor // 2**20}Mi"
