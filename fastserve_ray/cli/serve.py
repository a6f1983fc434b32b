"""``fastserve serve``: a model behind an OpenAI-compatible endpoint, here or in a cluster."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING

import click

from fastserve_ray.cli.common import check_keys, json_option, print_json, set_option
from fastserve_ray.cli.serve_cluster import deploy, rollback, status
from fastserve_ray.cli.target import resolve_target
from fastserve_ray.remote.inside import is_job, joined

if TYPE_CHECKING:
    from fastserve_ray.cli.target import Target
    from fastserve_ray.serve.deploy import ServedApp


class ServeGroup(click.Group):
    """``fastserve serve TARGET`` is ``fastserve serve here TARGET``."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = bool(args) and args[0] in self.commands
        return super().resolve_command(ctx, args if known else [HERE, *args])


HERE = "here"


@click.group("serve", cls=ServeGroup, context_settings={"ignore_unknown_options": True})
def command() -> None:
    """Serve a model.

    fastserve serve TARGET [OPTIONS] serves it in this terminal, as fastserve serve here TARGET does; the other commands
    are for applications of a cluster that go on by themselves.
    """


for each in (deploy, status, rollback):
    command.add_command(each)


@command.command(HERE)
@click.argument("target")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--task", help="Task of a model folder or hub id.  [default: what its config says]")
@click.option("--name", help="The model's name in /v1/models.  [default: the run's, folder's or hub's name]")
@click.option("--storage", help="Where the artifacts are.  [default: the file's, else ./runs]")
@set_option
@click.option(
    "--wait/--no-wait",
    default=True,
    help="Serve until Ctrl-C, or end after one sample; a cluster then goes on serving.",
)
@json_option
def here(
    *,
    target: str,
    port: int | None,
    host: str | None,
    task: str | None,
    name: str | None,
    storage: str | None,
    sets: tuple[str, ...],
    wait: bool,
    as_json: bool,
) -> None:
    """Serve TARGET: app.yaml (its verified model), a model folder, a hub id, artifact:ID or run@stage."""
    flags = [f"serve.port={port}"] * (port is not None) + [f"serve.host={json.dumps(host)}"] * (host is not None)
    found = resolve_target(target, sets=[*sets, *flags], task=task, name=name, storage=storage)
    check_keys(found.spec)
    if is_job():
        found = dataclasses.replace(found, spec=joined(found.spec))
    from fastserve_ray.run.signals import terminate_as_interrupt

    with terminate_as_interrupt():
        _serve(found, wait=wait, as_json=as_json)


def _serve(target: Target, *, wait: bool, as_json: bool) -> None:
    from fastserve_ray.run.ray_runtime import RayRuntime

    runtime = RayRuntime(target.spec.cluster)
    is_done = False
    try:
        say("starting Ray")
        runtime.start()
        from fastserve_ray.serve import deploy as deployment

        app = deployment.deploy(
            target.model,
            target.task,
            target.model_name,
            target.serve,
            target.spec.storage,
            revision=target.spec.model.revision,
            cluster=target.spec.cluster,
            on_status=say,
        )
        stays = not wait and target.spec.cluster.address != "local"
        try:
            _show(app, target.serve.sample_prompt, as_json=as_json, ask=not wait)
            if wait:
                app.wait()
        finally:
            if not stays:
                say("stopping")
                app.shutdown()
        is_done = True
    finally:
        runtime.stop(keep_logs=not is_done)


def say(words: str) -> None:
    click.echo(f"{words} ...", err=True)


def _show(app: ServedApp, prompt: str | None, *, as_json: bool, ask: bool) -> None:
    from fastserve_ray.serve.client import post

    sample = app.sample(prompt)
    answer = sample.text(post(app.url + sample.path, sample.body)) if ask else None
    fields = {"url": app.url, "model": app.model_name, "task": app.task, "curl": sample.curl(app.url)}
    if as_json:
        print_json({**fields, **({} if answer is None else {"answer": answer})})
        return
    click.echo(f"\nServing {app.model_name} at {app.url}")
    if answer is not None:
        click.echo(f"\n  {answer}")
    click.echo(f"\nAsk it:\n  {fields['curl']}\n\nLook at:")
    for path in ("/v1/models", "/docs", "/metrics"):
        click.echo(f"  {app.url}{path}")
    if not ask:
        click.echo("\nCtrl-C stops it.")
