"""The whole file."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from fastserve_ray.spec.base import ListInput, Section, Words
from fastserve_ray.spec.cluster import ClusterSpec
from fastserve_ray.spec.compress import CompressStep
from fastserve_ray.spec.data import DataSpec
from fastserve_ray.spec.model import ModelSpec
from fastserve_ray.spec.serve import ServeSpec
from fastserve_ray.spec.train import TrainSpec
from fastserve_ray.spec.tune import TuneSpec
from fastserve_ray.spec.verify import VerifySpec


class RunSpec(Section):
    """One file: what to train, tune, compress, verify and serve, and where."""

    version: Literal[1] = 1
    """Version of this format."""
    name: Annotated[
        str,
        Field(pattern=r"^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$"),
        Words("1 to 63 lower-case letters, digits, '.', '_' or '-', with a letter or digit at both ends"),
    ]
    """Name of the run's folder in storage and of the Serve application."""
    storage: str = "./runs"
    """Where artifacts, checkpoints and events go: a path or any pyarrow.fs URI (file://, s3://, gs://, hdfs://)."""
    cluster: ClusterSpec = ClusterSpec()
    model: ModelSpec
    data: DataSpec | None = None
    """Needed by ``train`` and by ``verify``; a file that only serves a trained model leaves it out."""
    train: TrainSpec | None = None
    tune: TuneSpec | None = None
    compress: Annotated[tuple[CompressStep, ...], ListInput] = ()
    verify: VerifySpec = VerifySpec()
    serve: ServeSpec | None = None

    @property
    def ranks_per_trial(self) -> int:
        """Training processes of one trial of ``tune``; one worker trains alone, whatever ``train.parallel`` cuts."""
        if self.tune is None or self.train is None or self.tune.workers_per_trial == 1:
            return 1
        return self.tune.workers_per_trial * self.train.parallel.tensor * self.train.parallel.pipeline
