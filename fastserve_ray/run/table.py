"""The stages by name. Each is ``run_stage(context, runtime)`` and returns the manifest that it published; ``serve``
publishes nothing and returns what is served."""

from __future__ import annotations

from fastserve_ray.lazy import LazyTable

STAGES = LazyTable(
    "stage",
    "--until",
    {
        "data": "fastserve_ray.run.stages.data:run_stage",
        "tune": "fastserve_ray.run.stages.tune:run_stage",
        "import": "fastserve_ray.run.stages.import_:run_stage",
        "train": "fastserve_ray.run.stages.train:run_stage",
        "compress": "fastserve_ray.run.stages.compress:run_stage",
        "verify": "fastserve_ray.run.stages.verify:run_stage",
        "serve": "fastserve_ray.run.stages.serve:run_stage",
    },
)
