"""``python -m fastserve_ray.native FOLDER``: builds the kernels for all processors; for an image without a compiler."""

from __future__ import annotations

import sys
from pathlib import Path

from fastserve_ray.native.library import build_all

if __name__ == "__main__":
    for built in build_all(Path(sys.argv[1])):
        print(built)
