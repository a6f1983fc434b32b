"""What verification found, as JSON and as a page."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fastserve_ray.verify.gate import Finding
    from fastserve_ray.verify.golden import Golden

REPORT_JSON = "verification.json"
REPORT_PAGE = "verification.md"


@dataclass(frozen=True)
class VerificationResult:
    """All that was checked, whether passed or not."""

    findings: tuple[Finding, ...]
    golden: Golden
    min_agreement: float
    metrics: Mapping[str, float]
    """``eval_*`` of the model as it will be served."""

    @property
    def failures(self) -> list[str]:
        """Why the model must not be served; empty when it may."""
        golden = self.golden
        reasons = [finding.words() for finding in self.findings if not finding.is_passed]
        if not golden.is_faithful:
            reasons.append(
                f"the engine's answers are not the model's: {golden.num_equal} of {golden.num_compared} equal, the "
                f"largest difference is {golden.largest_gap:.3g} where {golden.tolerance:g} is rounding"
            )
        if golden.agreement < self.min_agreement:
            reasons.append(
                f"{golden.agreement:.1%} of the golden answers equal the trained parent's, "
                f"at least {self.min_agreement:.1%} wanted"
            )
        return reasons

    @property
    def is_passed(self) -> bool:
        return not self.failures

    def figures(self) -> dict[str, float]:
        """Metrics of the artifact."""
        golden = self.golden
        fidelity = golden.num_equal / golden.num_compared if golden.num_compared else 1.0
        return {**self.metrics, "golden_fidelity": fidelity, "golden_agreement": golden.agreement}

    def write(self, folder: Path) -> None:
        """Both files."""
        document = {
            "passed": self.is_passed,
            "failures": self.failures,
            "metrics": dict(self.metrics),
            "gate": [dataclasses.asdict(finding) for finding in self.findings],
            "golden": dataclasses.asdict(self.golden),
            "min_agreement": self.min_agreement,
        }
        (folder / REPORT_JSON).write_text(json.dumps(document, indent=2) + "\n")
        (folder / REPORT_PAGE).write_text(self.page())

    def page(self) -> str:
        """For a person."""
        lines = ["# Verification: " + ("passed" if self.is_passed else "FAILED"), ""]
        lines += [f"- {'passed' if f.is_passed else 'FAILED'}: {f.words()}" for f in self.findings]
        lines += self._replayed() if self.golden.num_inputs else ["- no engine runs this model: nothing was replayed"]
        lines += [f"- {name}: {value:.4f}" for name, value in sorted(self.metrics.items())]
        return "\n".join(lines) + "\n"

    def _replayed(self) -> list[str]:
        golden = self.golden
        return [
            f"- engine against plain transformers on {golden.num_inputs} golden inputs: {golden.num_equal} of "
            f"{golden.num_compared} answers equal, {golden.num_ties} inputs differ from a tie on",
            f"- agreement with the trained parent: {golden.agreement:.1%} (at least {self.min_agreement:.1%} wanted)",
        ]
