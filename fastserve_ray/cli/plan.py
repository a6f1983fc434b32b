"""``fastserve plan``: what a run would do; nothing is started."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from fastserve_ray.cli.common import console, json_option, print_json, read_spec, set_option, spec_argument
from fastserve_ray.plan.words import size_in_words

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import Console
    from rich.table import Table

    from fastserve_ray.plan.memory import StageMemory
    from fastserve_ray.plan.resources import Bundles, Present
    from fastserve_ray.plan.stages import Plan, PlannedStage

State = Literal["published", "to do", "starts anew", "unknown"]
_PARTS = ("parameters", "gradients", "optimizer", "activations", "kv_cache", "peak")


@click.command("plan")
@spec_argument
@set_option
@click.option(
    "--address",
    metavar="URL",
    help="Ask the cluster there whether its nodes have room: http://head:8265, or auto for the Ray on this machine.",
)
@json_option
def command(spec_file: Path, sets: tuple[str, ...], address: str | None, as_json: bool) -> None:
    """Show the stages of FILE, what is already published, memory per worker, and resources asked and present."""
    from fastserve_ray.plan.memory import estimate_memory
    from fastserve_ray.plan.resources import present_resources
    from fastserve_ray.plan.stages import plan_run

    spec = read_spec(spec_file, sets)
    plan = plan_run(spec)
    spec = plan.spec
    states, reason = stage_states(plan)
    memory, present = estimate_memory(spec), present_resources(spec)
    placement = None
    if address is not None:
        from fastserve_ray.cli.plan_nodes import placement_at

        placement = placement_at(address, plan, memory)
        present = placement.present
    if as_json:
        found = _as_json(plan, states, reason, memory, present)
        print_json(found if placement is None else {**found, "cluster": placement.as_json()})
        return
    _print(plan, states, reason, memory, present)
    if placement is not None:
        placement.show(console())


def stage_states(plan: Plan) -> tuple[dict[str, State], str | None]:
    """By stage, whether its artifact is in storage; and why that could not be found out."""
    from fastserve_ray.errors import ArtifactError, StorageError
    from fastserve_ray.plan.inputs import is_uri

    if not is_uri(plan.spec.storage) and not Path(plan.spec.storage).expanduser().exists():
        return {stage.name: _state(stage, is_published=False) for stage in plan.stages}, None
    from fastserve_ray.artifacts.registry import Registry
    from fastserve_ray.storage.filesystem import Storage

    try:
        registry = Registry(Storage.open(plan.spec.storage))
        found = {stage.name: registry.find(stage.name, stage.digest) is not None for stage in plan.stages}
    except (StorageError, ArtifactError) as error:
        return {stage.name: "unknown" for stage in plan.stages}, str(error)
    return {stage.name: _state(stage, is_published=found[stage.name]) for stage in plan.stages}, None


def _state(stage: PlannedStage, *, is_published: bool) -> State:
    if stage.name == "serve":
        return "starts anew"
    return "published" if is_published else "to do"


def _as_json(
    plan: Plan, states: dict[str, State], reason: str | None, memory: tuple[StageMemory, ...], present: Present
) -> dict[str, JsonValue]:
    from fastserve_ray.plan.fit import misfits
    from fastserve_ray.plan.resources import short_stages

    stages: list[JsonValue] = [
        {
            "name": stage.name,
            "digest": stage.digest,
            "artifact_id": None if stage.name == "serve" else stage.artifact_id,
            "state": states[stage.name],
            "inputs": list(stage.inputs),
            "spec_keys": list(stage.spec_keys),
            "resources": _bundles_as_json(stage.resources),
        }
        for stage in plan.stages
    ]
    estimates: list[JsonValue] = [
        {"stage": item.stage, **{part: getattr(item, part) for part in _PARTS}, "reason": item.reason}
        for item in memory
    ]
    return {
        "name": plan.spec.name,
        "storage": plan.spec.storage,
        "storage_problem": reason,
        "stages": stages,
        "memory_bytes_per_worker": estimates,
        "memory_does_not_fit": [str(misfit.error()) for misfit in misfits(plan.spec)],
        "micro_batch_size": None if plan.spec.train is None else plan.spec.train.rows_per_pass,
        "resources": {
            "cpus_present": present.cpus,
            "gpus_present": present.gpus,
            "do_not_fit": [stage.name for stage in short_stages(plan.stages, present)],
        },
    }


def _bundles_as_json(bundles: Bundles) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {
        "bundles": bundles.count,
        "cpus_each": bundles.cpus,
        "gpus_each": bundles.gpus,
    }
    if bundles.others:
        found["others"] = [_bundles_as_json(other) for other in bundles.others]
    return found


def _print(
    plan: Plan, states: dict[str, State], reason: str | None, memory: tuple[StageMemory, ...], present: Present
) -> None:
    from rich import box
    from rich.table import Table

    from fastserve_ray.plan.fit import misfits
    from fastserve_ray.plan.pipeline import idle_warning

    output = console()
    stages = Table(box=box.SIMPLE_HEAD, title=f"{plan.spec.name}: stages", title_justify="left")
    for heading in ("stage", "digest", "state", "reads", "asks for"):
        stages.add_column(heading)
    for stage in plan.stages:
        style = "green" if states[stage.name] == "published" else ""
        reads = ", ".join(stage.inputs) or "-"
        stages.add_row(stage.name, stage.digest[:16], states[stage.name], reads, str(stage.resources), style=style)
    output.print(stages)
    if reason is not None:
        output.print(f"storage could not be read: {reason}", style="yellow")
    if memory:
        output.print(_memory_table(memory))
    for misfit in misfits(plan.spec):
        output.print(f"{misfit.error()}; `fastserve run` would refuse", style="red")
    if plan.spec.train is not None:
        train = plan.spec.train
        output.print(f"micro batch: {train.rows_per_pass} sequences, {train.passes_per_step} in a step on each worker")
        if (warning := idle_warning(train)) is not None:
            output.print(warning, style="yellow")
    for item in memory:
        if item.reason is not None:
            output.print(f"{item.stage}: not all is known: {item.reason}", style="dim")
    _print_resources(output, plan, present)


def _memory_table(memory: tuple[StageMemory, ...]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title="estimated memory of one worker or replica", title_justify="left")
    table.add_column("stage")
    for part in _PARTS:
        table.add_column(part.replace("_", " "), justify="right")
    for item in memory:
        table.add_row(item.stage, *(size_in_words(getattr(item, part)) for part in _PARTS))
    return table


def _print_resources(output: Console, plan: Plan, present: Present) -> None:
    from fastserve_ray.plan.resources import short_stages

    if present.cpus is None or present.gpus is None:
        output.print("resources present: asked of the running Ray when the run starts (cluster.address)")
        return
    output.print(f"resources present: {present.cpus:g} CPU, {present.gpus:g} GPU")
    for stage in short_stages(plan.stages, present):
        output.print(
            f"{stage.name} asks for {stage.resources}: more than there is; `fastserve run` would refuse", style="red"
        )
