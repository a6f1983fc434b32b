"""The plan: which stages a spec means, what each reads, and the digest of each result.

Order: ``data -> tune -> train -> compress -> verify -> serve``. Without ``train`` a stage ``import`` takes its place
and publishes ``model.base`` as it is, so that what compresses, verifies and serves always reads a model artifact.
Nothing is imported, started or read here but file listings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from fastserve_ray.artifacts.manifest import artifact_id
from fastserve_ray.errors import UsageError
from fastserve_ray.plan.digest import stage_digest
from fastserve_ray.plan.fingerprint import fingerprint_inputs
from fastserve_ray.plan.fit import with_micro_batch
from fastserve_ray.plan.resources import Bundles, bundles_of
from fastserve_ray.plan.settings import stage_settings
from fastserve_ray.plan.shards import check_base

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.spec.run import RunSpec

StageName = Literal["data", "tune", "import", "train", "compress", "verify", "serve"]

Fingerprint = Callable[["RunSpec"], Mapping[str, "JsonValue"]]

_INPUT_KEYS: dict[StageName, tuple[str, ...]] = {
    "data": ("data.train", "data.validation", "model.base", "model.tokenizer", "model.chat_template"),
    "tune": ("model.base",),
    "import": ("model.base",),
    "train": ("model.base",),
}
"""Outside inputs of each stage."""


@dataclass(frozen=True)
class PlannedStage:
    """One step of the run."""

    name: StageName
    digest: str
    """sha256 (hex) of all that decides the result."""
    artifact_id: str
    """What the stage publishes; ``serve`` publishes nothing."""
    inputs: tuple[StageName, ...]
    """Stages whose artifacts it reads, the model before the rest."""
    settings: Mapping[str, JsonValue]
    """The keys of the spec that decide the result, by dotted path."""
    resources: Bundles
    """What it reserves while it runs."""
    fingerprints: Mapping[str, JsonValue]
    """Identities of the outside inputs that it reads, by the key that names them."""

    @property
    def spec_keys(self) -> tuple[str, ...]:
        """Dotted paths of ``settings``."""
        return tuple(self.settings)


@dataclass(frozen=True)
class Plan:
    """All stages, in the order in which they run."""

    spec: RunSpec
    stages: tuple[PlannedStage, ...]

    @property
    def names(self) -> tuple[StageName, ...]:
        return tuple(stage.name for stage in self.stages)

    def stage(self, name: str) -> PlannedStage:
        """The stage of that name.

        Raises:
            UsageError: the plan has no such stage.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise UsageError("this run has no such stage", value=name, allowed=", ".join(self.names))


def plan_run(spec: RunSpec, *, fingerprint: Fingerprint = fingerprint_inputs) -> Plan:
    """Stages and digests of a run.

    Args:
        spec: a valid spec.
        fingerprint: identifies the inputs that lie outside the spec.

    Returns:
        the plan; its ``spec`` has a number in place of ``train.micro_batch_size: auto``.

    Raises:
        SpecError: an input is not there, or ``model.base`` cannot be served over so many shards.
        PlacementError: no micro batch can be chosen.
    """
    check_base(spec)
    spec = with_micro_batch(spec)
    fingerprints = fingerprint(spec)
    digests: dict[str, str] = {}
    stages = []
    for name, inputs in stage_inputs(spec).items():
        settings = stage_settings(spec, name)
        known = {key: fingerprints[key] for key in _INPUT_KEYS.get(name, ()) if key in fingerprints}
        digests[name] = stage_digest(
            name,
            settings=settings,
            parents={parent: digests[parent] for parent in inputs},
            fingerprints=known,
        )
        stages.append(
            PlannedStage(
                name, digests[name], artifact_id(name, digests[name]), inputs, settings, bundles_of(spec, name), known
            )
        )
    return Plan(spec, tuple(stages))


def stage_inputs(spec: RunSpec) -> dict[StageName, tuple[StageName, ...]]:
    """The stages of a spec in order, each with the stages that it reads."""
    has_data = spec.data is not None
    data: tuple[StageName, ...] = ("data",) if has_data else ()
    trained: StageName = "import" if spec.train is None else "train"
    graph: dict[StageName, tuple[StageName, ...]] = {"data": ()} if has_data else {}
    if spec.tune is not None:
        graph["tune"] = data
    graph[trained] = () if trained == "import" else (*data, *(("tune",) if spec.tune is not None else ()))
    last = trained
    if spec.compress:
        graph["compress"] = (trained, *data)
        last = "compress"
    if has_data:
        graph["verify"] = tuple(dict.fromkeys((last, trained, "data")))
    if spec.serve is not None:
        graph["serve"] = (last, "verify") if has_data else (last,)
    return graph
