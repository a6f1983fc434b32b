"""The YAML file as frozen pydantic models, one module a section; imports neither torch nor ray."""

from fastserve_ray.spec.adapter import (
    AdaLoraAdapter,
    AdapterSpec,
    Ia3Adapter,
    LoraAdapter,
    OtherAdapter,
    PrefixAdapter,
    PromptAdapter,
)
from fastserve_ray.spec.cluster import ClusterSpec
from fastserve_ray.spec.compress import CompressStep, PruneStep, QuantizeStep
from fastserve_ray.spec.data import Columns, DataSource, DataSpec, FilesSource, HeldOut, PythonDocsSource
from fastserve_ray.spec.model import ModelSpec, TokenizerSpec
from fastserve_ray.spec.run import RunSpec
from fastserve_ray.spec.serve import AutoscalingSpec, EngineSpec, SchedulerSpec, ServeSpec
from fastserve_ray.spec.train import CheckpointSpec, ParallelSpec, TrainSpec, WorkerResources
from fastserve_ray.spec.tune import Choice, GridSearch, LogUniform, RandomInteger, TuneSpec, Uniform
from fastserve_ray.spec.verify import VerifySpec

__all__ = [
    "AdaLoraAdapter",
    "AdapterSpec",
    "AutoscalingSpec",
    "CheckpointSpec",
    "Choice",
    "ClusterSpec",
    "Columns",
    "CompressStep",
    "DataSource",
    "DataSpec",
    "EngineSpec",
    "FilesSource",
    "GridSearch",
    "HeldOut",
    "Ia3Adapter",
    "LogUniform",
    "LoraAdapter",
    "ModelSpec",
    "OtherAdapter",
    "ParallelSpec",
    "PrefixAdapter",
    "PromptAdapter",
    "PruneStep",
    "PythonDocsSource",
    "QuantizeStep",
    "RandomInteger",
    "RunSpec",
    "SchedulerSpec",
    "ServeSpec",
    "TokenizerSpec",
    "TrainSpec",
    "TuneSpec",
    "Uniform",
    "VerifySpec",
    "WorkerResources",
]
