"""Where downloads are kept on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def cache_root() -> Path:
    """``$FASTSERVE_CACHE``, default ``~/.cache/fastserve_ray``. May be deleted at any time; it is filled again."""
    return Path(os.environ.get("FASTSERVE_CACHE") or Path.home() / ".cache" / "fastserve_ray").absolute()
