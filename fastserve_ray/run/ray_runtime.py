"""The Ray of a run: embedded, or one that runs already.

An embedded Ray dies with the driver, even by SIGKILL: its servers ask the kernel to (PR_SET_PDEATHSIG), and Ray's
workers leave two seconds after their raylet. Only its two idle agents stay for a minute, in which they try to report
the death of the raylet (a fixed timeout in ``ray._private.process_watcher``). Ray's temporary folder has a short name
because the path of a socket may have 107 characters.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import FastServeError
from fastserve_ray.plan.resources import Present
from fastserve_ray.run.signals import take_sigterm
from fastserve_ray.run.worker import StageWorker
from fastserve_ray.serve.environment import runtime_env_of, set_environment
from fastserve_ray.storage.lock import FileLock

if TYPE_CHECKING:
    from fastserve_ray.artifacts.manifest import Manifest
    from fastserve_ray.run.context import StageContext
    from fastserve_ray.spec.cluster import ClusterSpec

TEMPORARY_PREFIX = "fastserve-"
KEEP_LOGS_SECONDS = 24 * 3600
"""How long the logs of a run that failed or was killed stay in the temporary folder."""
_ENVIRONMENT = {
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "TOKENIZERS_PARALLELISM": "false",
}


class RayRuntime:
    """Implements ``Runtime``. A process that is connected to a Ray already, such as a notebook, keeps that one."""

    def __init__(self, cluster: ClusterSpec) -> None:
        self._cluster = cluster
        self._is_started = False
        self._is_borrowed = False
        self._worker: Any = None
        self._folder: Path | None = None
        self._lock: FileLock | None = None
        self.dashboard_url: str | None = None
        self.logs: Path | None = None

    def start(self) -> None:
        if self._is_started:
            return
        import ray

        is_local = self._cluster.address == "local"
        for name, value in _ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        if is_local:
            set_environment()
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        env = {"runtime_env": runtime_env_of(self._cluster)}
        self._is_borrowed = ray.is_initialized()
        if not self._is_borrowed:
            _refuse_jobs_address(self._cluster)
        try:
            if self._is_borrowed:
                context = ray.init(ignore_reinit_error=True, **quiet)
            elif is_local:
                context = ray.init(**self._local_options(), **env, **quiet)
            else:
                context = ray.init(address=self._cluster.address, **env, **quiet)
        except (ConnectionError, RuntimeError, OSError, ValueError) as error:
            raise FastServeError(
                "Ray cannot be started" if is_local else "no running Ray was found",
                value=str(error).splitlines()[0] if str(error) else type(error).__name__,
                key="cluster",
                hint="leave cluster.address out for an embedded Ray; or start one with: ray start --head",
            ) from error
        finally:
            take_sigterm()
        self._is_started = True
        url = context.dashboard_url
        self.dashboard_url = f"http://{url}" if url else None
        self.logs = Path(context.address_info["session_dir"]) / "logs"

    def present(self) -> Present:
        import ray

        self.start()
        resources = ray.cluster_resources()
        return Present(float(resources.get("CPU", 0.0)), float(resources.get("GPU", 0.0)))

    def call(self, work: str, context: StageContext) -> Manifest:
        import ray
        from ray.exceptions import RayActorError, RayTaskError

        if self._worker is None:
            context.progress(step=0, total=None, message="starting Ray")
            self.start()
            self._worker = self._start_worker()
        try:
            manifest: Manifest = ray.get(self._worker.run.remote(work, context))
        except RayTaskError as error:
            raise _cause_of(error, context.stage.name) from error
        except RayActorError as error:
            self._worker = None
            raise FastServeError(
                f"the process of stage {context.stage.name} died",
                value=str(error).strip().splitlines()[0],
                hint="most often the machine ran out of memory; smaller batches or a smaller model need less",
            ) from error
        return manifest

    def release_worker(self) -> None:
        if self._worker is not None:
            import ray

            ray.kill(self._worker)
            self._worker = None

    def stop(self, *, keep_logs: bool) -> None:
        if self._is_started and self._is_borrowed:
            self.release_worker()
        elif self._is_started:
            import ray

            ray.shutdown()
        self._is_started = False
        self._worker = None
        if self._folder is not None and not keep_logs:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
        self._folder = self._lock = None

    def _local_options(self) -> dict[str, Any]:
        memory = self._cluster.object_store_memory_mb
        self._folder, self._lock = _temporary_folder()
        return {
            "address": "local",
            "num_cpus": self._cluster.num_cpus,
            "num_gpus": self._cluster.num_gpus,
            "object_store_memory": None if memory is None else memory * 2**20,
            "include_dashboard": self._cluster.include_dashboard,
            "_temp_dir": str(self._folder),
        }

    def _start_worker(self) -> Any:
        """On the driver's node, where local storage is. It reserves no CPU: it only works while no other stage does,
        and between its stages the CPUs belong to training."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        node = ray.get_runtime_context().get_node_id()
        here = NodeAffinitySchedulingStrategy(node, soft=False)
        actor = ray.remote(StageWorker).options(num_cpus=0, scheduling_strategy=here)
        return actor.remote(num_threads=self._num_threads(), folder=str(Path.cwd()))

    def _num_threads(self) -> int:
        """All CPUs of an embedded Ray; one in a cluster that is shared with others."""
        if self._cluster.address != "local":
            return 1
        return min(os.cpu_count() or 1, self._cluster.num_cpus or os.cpu_count() or 1)


def _refuse_jobs_address(cluster: ClusterSpec) -> None:
    if cluster.is_submitted_to:
        raise FastServeError(
            "a Ray behind this address takes jobs; it cannot be joined from here",
            value=cluster.address,
            allowed="local or auto",
            key="cluster.address",
            hint=f"submit the run as a job: fastserve submit app.yaml --address {cluster.address}",
        )


def _cause_of(error: Any, stage: str) -> FastServeError:
    cause = error.cause
    if isinstance(cause, FastServeError):
        return cause
    words = str(cause).strip() or "no message"
    return FastServeError(f"stage {stage} failed with {type(cause).__name__}", value=words.splitlines()[-1])


def _temporary_folder() -> tuple[Path, FileLock]:
    """A new short folder, marked as in use; old ones whose owner is gone are deleted."""
    root = Path(tempfile.gettempdir())
    if len(str(root)) > 30:
        root = Path("/tmp")
    for path in root.glob(f"{TEMPORARY_PREFIX}*/in-use"):
        _delete_if_abandoned(path)
    folder = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=root))
    lock = FileLock(folder / "in-use")
    lock.acquire()
    return folder, lock


def _delete_if_abandoned(path: Path) -> None:
    lock = FileLock(path)
    try:
        if time.time() - path.stat().st_mtime > KEEP_LOGS_SECONDS and lock.try_acquire():
            shutil.rmtree(path.parent, ignore_errors=True)
            lock.release()
    except OSError as error:
        logging.getLogger(__name__).debug("%s stays: %s", path.parent, error)
