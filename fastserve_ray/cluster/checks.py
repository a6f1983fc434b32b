"""What a file must say, and must not name, so that a cluster can be made of it. All problems come at once."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from fastserve_ray.cluster.pods import CACHE_PATH
from fastserve_ray.errors import Problem, SpecError
from fastserve_ray.plan.inputs import is_uri, local_path, reference_kind
from fastserve_ray.plan.named_inputs import inputs_of_run, inputs_of_serving

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from fastserve_ray.cluster.app import App
    from fastserve_ray.plan.named_inputs import NamedInput


def refuse(problems: Iterable[Problem]) -> None:
    """Stop where there are problems.

    Raises:
        SpecError: with all of them.
    """
    found = list(problems)
    if found:
        raise SpecError(found)


def check_pods(app: App, *, reads_inputs: bool) -> Iterator[Problem]:
    """Pods' sizes are known, secrets are in Kubernetes, and nothing is named that pods cannot see.

    Args:
        reads_inputs: whether they read the data and the model that a run starts from.
    """
    yield from _memory(app)
    yield from _secrets(app)
    yield from check_working_dir(app)
    seen = [PurePosixPath(volume.path) for volume in app.cluster.kubernetes.volumes]
    seen += [PurePosixPath(CACHE_PATH)] if app.cluster.kubernetes.cache_claim else []
    for key, path in _paths(app, reads_inputs=reads_inputs):
        if not any(PurePosixPath(path).is_relative_to(folder) for folder in seen):
            how = "serve.auth.keys_env with cluster.secrets" if key == "serve.auth.keys_file" else "a URI such as s3://"
            allowed = f"{how}, or a path below one of cluster.kubernetes.volumes"
            yield Problem(key, "a path that pods cannot see", path, allowed=allowed)


def check_serve(app: App) -> Iterator[Problem]:
    """There is something to serve."""
    if app.spec.serve is None:
        yield Problem("serve", "the file serves nothing", allowed="a section `serve`, which may be empty: serve: {}")


def check_job(app: App) -> Iterator[Problem]:
    """There is something to do before serving."""
    if app.last_stage is None:
        what = "nothing is trained, compressed or verified, so there is nothing for a job to do"
        yield Problem("train", what, allowed="a section `train`; what only serves is a rayservice")


def check_working_dir(app: App) -> Iterator[Problem]:
    """Only what submits a job from this machine uploads a folder."""
    folder = app.cluster.runtime_env.working_dir
    if folder is not None and not is_uri(folder):
        yield Problem(
            "cluster.runtime_env.working_dir",
            "a folder of this machine, which the cluster cannot see",
            folder,
            allowed="a URI: https://, s3:// or gs:// of a zip file, or local:///path of a folder on every node",
        )


def check_absolute(app: App) -> Iterator[Problem]:
    """Serve's processes do not work in the folder where a command is started."""
    for key, path in _paths(app, reads_inputs=app.model is None):
        if not PurePosixPath(path).is_absolute():
            allowed = "an absolute path that every node sees, or a URI such as s3://bucket/runs"
            yield Problem(key, "a path below this folder, which nodes do not know", path, allowed=allowed)


def _memory(app: App) -> Iterator[Problem]:
    for name, node in (app.cluster.available_node_types or {}).items():
        if node.resources.memory is None:
            key = f"cluster.available_node_types.{name}.resources.memory"
            yield Problem(key, "Kubernetes must know the pod's memory", allowed="a size such as 16Gi")


def _secrets(app: App) -> Iterator[Problem]:
    for variable, secret in app.cluster.secrets.items():
        if secret.name is None:
            allowed = "the name of a Kubernetes Secret"
            yield Problem(f"cluster.secrets.{variable}.name", "no Secret is named", allowed=allowed)
    auth = None if app.spec.serve is None else app.spec.serve.auth
    variables = {*app.cluster.secrets, *app.cluster.runtime_env.env_vars}
    if auth is not None and auth.keys_env is not None and auth.keys_env not in variables:
        allowed = f"cluster.secrets with {auth.keys_env}: {{name: SECRET, key: KEY}}"
        yield Problem("serve.auth.keys_env", "no pod has this variable", auth.keys_env, allowed=allowed)


def _paths(app: App, *, reads_inputs: bool) -> Iterator[tuple[str, str]]:
    """Keys and paths of what lies on a disk, and is read or written by processes of the cluster."""
    storage = local_path(app.spec.storage)
    if storage is not None:
        yield "storage", storage
    if reads_inputs:
        yield from _on_disk(inputs_of_run(app.spec))
    if app.model is not None and _is_path(app.model):
        yield "--model", app.model
    yield from _on_disk(inputs_of_serving(app.spec))


def _on_disk(inputs: Iterable[NamedInput]) -> Iterator[tuple[str, str]]:
    """A path need not be there on this machine: pods may have it."""
    for key, value, is_reference in inputs:
        if _is_path(value) if is_reference else not is_uri(value):
            yield key, value


def _is_path(base: str) -> bool:
    return base.startswith(("/", ".", "~")) or reference_kind(base) == "folder"
