"""Jobs of a Ray cluster, through Ray's own client."""

from __future__ import annotations

import asyncio
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastserve_ray.errors import FastServeError, UsageError
from fastserve_ray.remote.dashboard import ADDRESS_ENV

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from fastserve_ray.remote.dashboard import Dashboard
    from fastserve_ray.remote.travel import Luggage

STOP_SECONDS = 60
"""A job that is told to stop ends its run in order, which Ray's own three seconds are too few for."""
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")
STOPPED_CODE = 130
END_TIMEOUT_S = 60.0
"""From the last line of a job's log to the word that it has ended."""
TRIES = 5
"""How often a log that breaks off is asked for again."""
PAUSE_S = 0.5


@dataclass(frozen=True)
class Job:
    """What the cluster says of a job."""

    id: str
    status: str
    message: str
    command: str
    started: float | None
    """Seconds since the epoch."""
    ended: float | None
    code: int | None
    """Of the command, once it has ended."""

    @property
    def is_ended(self) -> bool:
        return self.status in ENDED

    @property
    def exit_code(self) -> int:
        """What a command that followed the job ends with: the job's own code, 128 + the signal, 130 when stopped."""
        if self.status == "SUCCEEDED":
            return 0
        if self.status == "STOPPED":
            return STOPPED_CODE
        code = self.code or 1
        return code if code > 0 else 128 - code


class _Once:
    """Passes on what it has not passed on before, of a text that comes from its start with each connection."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._written = 0
        self._seen = 0

    def begin(self) -> None:
        self._seen = 0

    def take(self, piece: str) -> None:
        self._seen += len(piece)
        if (new := self._seen - self._written) > 0:
            self._write(piece[-new:])
            self._written = self._seen


class Jobs:
    """Every method raises FastServeError when the cluster cannot be asked, UsageError when it knows no such job."""

    def __init__(self, dashboard: Dashboard) -> None:
        dashboard.versions()  # an address or a token that is wrong is told here, in our words
        os.environ[ADDRESS_ENV] = dashboard.url  # Ray's client takes RAY_ADDRESS before its own argument
        from ray.job_submission import JobSubmissionClient

        for name in ("ray.dashboard.modules.dashboard_sdk", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        headers = {} if dashboard.token is None else dashboard.token.headers
        self._client = JobSubmissionClient(dashboard.url, headers=headers)
        self._url = dashboard.url

    def submit(
        self,
        command: str,
        luggage: Luggage,
        runtime_env: Mapping[str, Any] | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Send the files and start the command among them; returns the job's id."""
        env = dict(runtime_env or {})
        env["env_vars"] = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_SECONDS), **env.get("env_vars", {})}
        with tempfile.TemporaryDirectory(prefix="fastserve-") as folder:
            luggage.pack(Path(folder))
            env["working_dir"] = folder
            with self._errors():
                return str(self._client.submit_job(entrypoint=command, runtime_env=env, metadata=dict(metadata or {})))

    def find(self, job: str) -> Job:
        with self._errors(job):
            return _job(self._client.get_job_info(job))

    def list(self) -> list[Job]:
        """Those that were submitted, the latest first."""
        with self._errors():
            found = [_job(details) for details in self._client.list_jobs() if details.submission_id]
        return sorted(found, key=lambda job: job.started or 0.0, reverse=True)

    def logs(self, job: str) -> str:
        with self._errors(job):
            return str(self._client.get_job_logs(job))

    def follow(self, job: str, write: Callable[[str], object]) -> Job:
        """Give every piece of the job's log to ``write`` as it comes, from its first line; returns when it has ended.

        A connection that breaks is made again, and nothing is written twice.
        """
        import aiohttp

        self.find(job)
        once, failures = _Once(write), 0
        while True:
            try:
                asyncio.run(self._tail(job, once))
                failures = 0
            except (RuntimeError, OSError, aiohttp.ClientError) as error:
                failures += 1
                if failures == TRIES:
                    raise FastServeError("the job's log cannot be followed", value=str(error)) from error
            if (found := self.find(job)).is_ended:
                return found
            time.sleep(PAUSE_S)

    async def _tail(self, job: str, once: _Once) -> None:
        once.begin()
        async for piece in self._client.tail_job_logs(job):
            once.take(piece)

    def wait(self, job: str, seconds: float = END_TIMEOUT_S) -> Job:
        """The job once it has ended.

        Raises:
            FastServeError: it has not after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        while not (found := self.find(job)).is_ended:
            if time.monotonic() > deadline:
                raise FastServeError(f"job {job} has not ended after {seconds:g} s", value=found.status)
            time.sleep(PAUSE_S)
        return found

    def stop(self, job: str) -> bool:
        """Ask it to stop; False when it has ended already."""
        if self.find(job).is_ended:
            return False
        with self._errors(job):
            return bool(self._client.stop_job(job))

    @contextmanager
    def _errors(self, job: str | None = None) -> Iterator[None]:
        import requests

        try:
            yield
        except (RuntimeError, requests.RequestException) as error:
            if job is not None and "404" in str(error):
                raise UsageError(
                    "this cluster knows no such job",
                    value=job,
                    hint=f"`fastserve job status --address {self._url}` lists them",
                ) from error
            raise FastServeError("the cluster refuses the request", value=str(error), key="--address") from error
        except ValueError as error:
            raise UsageError(
                "Ray refuses the runtime environment", value=str(error), key="cluster.runtime_env"
            ) from error


def _job(details: Any) -> Job:
    return Job(
        id=str(details.submission_id or details.job_id),
        status=str(details.status),
        message=str(details.message or ""),
        command=str(details.entrypoint),
        started=None if details.start_time is None else details.start_time / 1000,
        ended=None if details.end_time is None else details.end_time / 1000,
        code=details.driver_exit_code,
    )
