"""What compression cost and brought, as JSON and as a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from pathlib import Path

REPORT_JSON = "compression_report.json"
REPORT_PAGE = "compression_report.md"


class ModelFigures(BaseModel):
    """One model of the chain: the parent, or the result of a step."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    """``parent``, or the step's number and kind."""
    tensor_bytes: int
    """Weights and scales in memory."""
    num_weights: int
    num_nonzero: int
    zeros_by_layer: dict[str, float]
    """Part of each matrix inside the model's blocks that is zero."""
    latency_ms: float
    """Median of a forward pass over ``CompressionReport.latency_batch``, all models in turn in one run."""
    metrics: dict[str, float]
    """``eval_*`` over all validation rows."""


class CompressionReport(BaseModel):
    """The parent and every step after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models: tuple[ModelFigures, ...]
    latency_batch: tuple[int, int]
    """Rows and tokens of the batch that latency was measured on."""
    num_threads: int
    disk_bytes_before: int
    """Weight files of the parent's folder."""
    disk_bytes_after: int

    @property
    def parent(self) -> ModelFigures:
        return self.models[0]

    @property
    def result(self) -> ModelFigures:
        return self.models[-1]

    def figures(self) -> dict[str, float]:
        """The metrics of the artifact."""
        return {
            **self.result.metrics,
            "size_ratio": self.disk_bytes_after / self.disk_bytes_before,
            "latency_ratio": self.result.latency_ms / self.parent.latency_ms,
            "sparsity": 1 - self.result.num_nonzero / self.result.num_weights,
        }

    def write(self, folder: Path) -> None:
        """Both files."""
        (folder / REPORT_JSON).write_text(self.model_dump_json(indent=2) + "\n")
        (folder / REPORT_PAGE).write_text(self.page())

    def page(self) -> str:
        """A Markdown table, one row a model."""
        names = sorted({name for model in self.models for name in model.metrics})
        head = ["model", "MB in memory", "nonzero weights", "latency ms", *names]
        lines = ["# Compression", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
        for model in self.models:
            cells = [
                model.name,
                f"{model.tensor_bytes / 1e6:.2f}",
                f"{model.num_nonzero / model.num_weights:.1%}",
                f"{model.latency_ms:.2f}",
                *[f"{model.metrics[name]:.4f}" if name in model.metrics else "-" for name in names],
            ]
            lines.append("| " + " | ".join(cells) + " |")
        rows, tokens = self.latency_batch
        lines += [
            "",
            f"Latency: median forward pass over {rows} rows of up to {tokens} tokens, {self.num_threads} threads, "
            "the models in turn. Quality: all validation rows.",
            f"Weight files: {self.disk_bytes_before / 1e6:.2f} MB before, {self.disk_bytes_after / 1e6:.2f} MB after.",
        ]
        if any("prune" in model.name for model in self.models):
            lines.append("Pruned matrices stay dense: zeros alone make the model neither smaller nor faster.")
        return "\n".join(lines) + "\n"
