"""Stage ``serve``: a Ray Serve application of the model, asked once over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import JsonValue

    from fastserve_ray.run.context import Runtime, StageContext
    from fastserve_ray.serve.deploy import ServedApp


def run_stage(context: StageContext, runtime: Runtime) -> ServedStage:
    """Deploys the model; returns when it answers requests."""
    from fastserve_ray.spec.serve import ServeSpec

    runtime.release_worker()
    context.progress(step=0, total=None, message="starting Ray")
    runtime.start()
    from fastserve_ray.serve.deploy import deploy

    spec = context.spec
    app = deploy(
        f"artifact:{context.model_input.id}",
        spec.model.task,
        spec.name,
        spec.serve or ServeSpec(),
        context.storage.uri,
        cluster=spec.cluster,
        on_status=lambda words: context.progress(step=0, total=None, message=words),
    )
    return ServedStage(app, context, runtime.dashboard_url)


class ServedStage:
    """Implements ``Served``."""

    def __init__(self, app: ServedApp, context: StageContext, dashboard_url: str | None) -> None:
        self._app = app
        self._context = context
        self._dashboard_url = dashboard_url

    def fields(self) -> dict[str, JsonValue]:
        """Asks a sample.

        Raises:
            ServeError: it was not answered.
        """
        from fastserve_ray.serve.client import post

        serve = self._context.spec.serve
        sample = self._app.sample(None if serve is None else serve.sample_prompt)
        self._context.progress(step=0, total=None, message="asking a sample")
        answer = post(self._app.url + sample.path, sample.body)
        return {
            "url": self._app.url,
            "model": self._app.model_name,
            "artifact": self._context.model_input.id,
            "prompt": sample.body.get("prompt", sample.body.get("input")),
            "answer": sample.text(answer),
            "curl": sample.curl(self._app.url),
            "links": {**self._links()},
        }

    def wait(self) -> None:
        """Until Ctrl-C."""
        self._app.wait()

    def shutdown(self) -> None:
        """Stops serving."""
        self._app.shutdown()

    def _links(self) -> dict[str, str]:
        url, storage = self._app.url, self._context.storage
        links = {
            "models": f"{url}/v1/models",
            "metrics": f"{url}/metrics",
            "API pages": f"{url}/docs",
            "run": storage.where(f"runs/{self._context.run_id}"),
        }
        if self._dashboard_url is not None:
            links["Ray dashboard"] = self._dashboard_url
        if storage.exists("tensorboard"):
            links["TensorBoard"] = f"tensorboard --logdir {storage.where('tensorboard')}"
        return links
