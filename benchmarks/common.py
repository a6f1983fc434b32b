"""What every benchmark shares: its flags, the machine's description, the table and the JSON file."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Figure = str | float | int | None
TRAINING_MODULES = (
    "deepspeed",
    "fastserve_ray.training.loop",
    "fastserve_ray.training.strategies.pipeline",
    "fastserve_ray.training.strategies.zero",
    "transformers.models.bert.modeling_bert",
    "transformers.models.gpt2.modeling_gpt2",
    "transformers.models.llama.modeling_llama",
)
"""What takes seconds to import, for ranks that are forked after it: none of it starts a thread."""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the flags that every benchmark takes: ``--json FILE`` and ``--quick``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    parser.add_argument("--quick", action="store_true", help="a smaller run of a minute or less")
    return parser


def machine() -> dict[str, Figure]:
    """Processor, cores, memory and the versions that decide speed."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        cpu = names[0] if names else cpu
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = {name: version(name) for name in ("torch", "transformers", "ray")}
    return {"cpu": cpu, "cores": os.cpu_count(), "memory_gib": round(memory, 1), "gpu": _gpu_name(), **packages}


def _gpu_name() -> str | None:
    import torch

    return str(torch.cuda.get_device_name(0)) if torch.cuda.is_available() else None


def interleaved_medians(
    candidates: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1
) -> dict[str, float]:
    """Median seconds of each candidate, run in turn so that a drift of the machine hits all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for round_number in range(warmup + rounds):
        for name, candidate in candidates.items():
            start = perf_counter()
            candidate()
            if round_number >= warmup:
                seconds[name].append(perf_counter() - start)
    return {name: statistics.median(values) for name, values in seconds.items()}


def report(title: str, rows: Sequence[Mapping[str, Figure]], *, json_file: Path | None) -> None:
    """Print the machine and a table; write both to ``json_file`` when given."""
    facts = machine()
    console = Console()
    console.print("machine: " + ", ".join(f"{name} {value}" for name, value in facts.items() if value is not None))
    table = Table(title=title)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    for column in columns:
        table.add_column(column, justify="left" if column == columns[0] else "right")
    for row in rows:
        table.add_row(*[_cell(row.get(column)) for column in columns])
    widest = Console(width=10_000).measure(table).maximum
    (console if widest <= console.width or console.is_terminal else Console(width=widest)).print(table)
    if json_file is not None:
        document = {"title": title, "machine": facts, "rows": [dict(row) for row in rows]}
        json_file.write_text(json.dumps(document, indent=2) + "\n")


def _cell(value: Figure) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
