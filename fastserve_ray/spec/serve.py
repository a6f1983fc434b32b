"""``serve``: the Ray Serve application."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from fastserve_ray.spec.access import AuthSpec, LimitsSpec, RequestLog
from fastserve_ray.spec.base import ListInput, NonNegativeInt, PositiveFloat, PositiveInt, Scalar, Section, Words
from fastserve_ray.spec.model import TaskName
from fastserve_ray.spec.train import WorkerResources
from fastserve_ray.spec.weights import WeightsSpec

POLICY_NAMES = ("fcfs", "skip-join-mlfq", "srpt", "fair")
POLICY_PATTERN = rf"^({'|'.join(POLICY_NAMES)}|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"
POLICY_WORDS = f"{', '.join(POLICY_NAMES)}, or package.module:Class"
ROUTER_NAMES = ("prefix-load", "power-of-two")
ROUTER_PATTERN = rf"^({'|'.join(ROUTER_NAMES)}|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$"
ROUTER_WORDS = f"{', '.join(ROUTER_NAMES)}, or package.module:Class"


class SchedulerSpec(Section):
    """In which order the engine runs requests."""

    policy: Annotated[str, Field(pattern=POLICY_PATTERN), Words(POLICY_WORDS)] = "fcfs"
    """fcfs: first come, first served. skip-join-mlfq: short requests overtake long ones (FastServe, arXiv 2305.05920).
    srpt: shortest remaining time first, by the length a request gives. fair: equal or weighted shares by API key, or by
    user without keys; the default where there are API keys.
    package.module:Class: your own."""
    promote_after_s: PositiveFloat | None = None
    """skip-join-mlfq: a request that has waited so long moves up to the first queue; default: chosen from the measured
    speed of the model and the queue."""
    num_queues: PositiveInt = 16
    """skip-join-mlfq: queues, each with twice the time slice of the one before."""
    max_preemptions: NonNegativeInt = 8
    """Times that a request may be made to wait after it has run; after that it runs to its end."""
    weights: dict[str, PositiveFloat] = {}
    """fair: the share of a user or of an API key, whose own weight this overrides; 1 for those not named."""


class EngineSpec(Section):
    """The inference engine of a replica."""

    kind: Literal["torch"] = "torch"
    scheduler: SchedulerSpec = SchedulerSpec()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes the GPU when the replica has one."""
    attention: Literal["auto", "gather", "flex"] = "auto"
    """flex: torch's compiled flex attention, which follows block tables; GPUs only. gather: copies the blocks of a
    batch side by side; any device. auto takes flex on a GPU when the model fits it."""
    cuda_graphs: bool = True
    """On a GPU with flex attention: capture steps that only decode, for some seconds at start-up and up to a tenth of
    the memory that the KV cache leaves."""
    max_num_seqs: PositiveInt = 16
    """Requests in one step at most."""
    max_num_batched_tokens: PositiveInt = 512
    """Tokens in one step at most, prompts and generated ones together; longer prompts are read in chunks. On a CPU more
    leave its caches; a GPU gains from 2048 and more."""
    max_num_waiting: PositiveInt = 4096
    """Requests that may wait in the engine; a further one is refused."""
    max_model_len: PositiveInt | None = None
    """Prompt and completion together; default: what the model's positions allow."""
    kv_cache_tokens: PositiveInt | None = None
    """Tokens that the KV cache holds for all requests; default: max_num_seqs full requests, capped by free memory."""
    kv_host_tokens: NonNegativeInt = 0
    """Tokens of a second pool in the host's memory, to which requests that must wait are swapped; 0: their tokens are
    dropped and read again."""
    prefix_caching: bool = True
    """Keep what was read, and share it between requests that begin alike."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """auto takes the type the weights are stored in."""
    int8_output_layer: bool = False
    """Text generation: hold the output layer in int8, and the embedding too where both have one weight: a quarter of
    their bytes, in memory and in every decode step. ``verify`` measures the model in this form."""
    num_threads: PositiveInt | None = None
    """Torch threads; default: the replica's CPUs."""


class ShardsSpec(Section):
    """Over how many processes one replica spreads its model. They stand and fall together."""

    tensor: PositiveInt = 1
    """Shards that compute every layer together, each with its part of the heads, of the MLP's columns and of the
    vocabulary. Each has ``resources_per_replica`` of its own; they share a node where they fit on one. 1: the replica
    alone."""
    pipeline: PositiveInt = 1
    """Only 1: a served model is not cut between its layers."""
    hang_timeout_s: PositiveFloat = 20.0
    """A shard whose process does not answer for so long, or on which a layer waits for so long, counts as lost: all
    shards of the replica end, and another replica starts. It does not count while a model is loaded."""


class AutoscalingSpec(Section):
    """Ray Serve's autoscaling of the replicas; Ray's own names, and a target in tokens beside that in requests."""

    min_replicas: NonNegativeInt = 1
    max_replicas: PositiveInt = 1
    initial_replicas: NonNegativeInt | None = None
    target_ongoing_requests: PositiveFloat = 8.0
    """Requests in flight that one replica should have; more of them start further replicas."""
    target_outstanding_tokens: PositiveFloat | None = None
    """Tokens that one replica should have to do, prompts not yet read and completions still expected; instead of
    target_ongoing_requests, which takes a request of ten tokens for one of ten thousand."""
    upscale_delay_s: Annotated[float, Field(ge=0)] = 10.0
    downscale_delay_s: Annotated[float, Field(ge=0)] = 120.0
    downscale_to_zero_delay_s: Annotated[float, Field(ge=0)] | None = None
    """Before the last replica stops; default: downscale_delay_s."""
    metrics_interval_s: PositiveFloat = 10.0
    """How often replicas and routers tell their load."""
    look_back_period_s: PositiveFloat = 30.0
    """Time over which the load is averaged; longer than metrics_interval_s."""


class RouterSpec(Section):
    """Which replica a request goes to."""

    kind: Annotated[str, Field(pattern=ROUTER_PATTERN), Words(ROUTER_WORDS)] = "prefix-load"
    """prefix-load: where the outstanding tokens and the prompt's uncached ones are fewest. power-of-two: the one with
    fewer requests of two drawn at random, Ray Serve's own. package.module:Class: a Ray Serve RequestRouter of yours."""
    max_skew: Annotated[float, Field(gt=1)] = 1.5
    """prefix-load: outstanding tokens of a replica over the mean of all, at most, however popular a prefix is."""
    slack_tokens: Annotated[float, Field(ge=0)] = 1024.0
    """prefix-load: a replica with no more than this to do may take any request, whatever max_skew says."""
    stats_period_s: PositiveFloat = 1.0
    """How often replicas tell routers of what other processes have sent them, and how large their cache is."""
    options: dict[str, Scalar] = {}
    """package.module:Class: arguments of its ``initialize_state``."""


class FurtherModelSpec(Section):
    """A model that is served beside the run's own. What is left out is as ``serve`` has it."""

    base: str
    """A hub id, a folder, or an artifact reference ``run@stage`` / ``artifact:ID``."""
    revision: str | None = None
    """Branch, tag or commit of a hub model."""
    task: TaskName = "text-generation"
    """What the model is for; decides its endpoints."""
    shards: ShardsSpec = ShardsSpec()
    """Of this model alone; the run's own ones are not taken over."""
    engine: EngineSpec | None = None
    autoscaling_config: AutoscalingSpec | None = None
    router: RouterSpec | None = None
    resources_per_replica: WorkerResources | None = None
    max_ongoing_requests: PositiveInt | None = None
    max_queued_requests: PositiveInt | None = None
    request_timeout_s: PositiveFloat | None = None


class ApplicationSpec(Section):
    """Routes of your own over the models, beside the standard ones."""

    kind: Annotated[str, Field(pattern=r"^[\w.]+:\w+$"), Words("package.module:Class")]
    """A class that follows ``fastserve_ray.serve.composition.ComposedApplication``. It is found where Python finds
    modules, and in the folder where the command is started."""
    settings: dict[str, JsonValue] = {}
    """What the class takes, by name."""


class ServeSpec(Section):
    """What is served, where and with how many replicas."""

    model_name: str | None = None
    """The name in ``/v1/models``; default: the run's name."""
    models: dict[Annotated[str, Field(min_length=1)], FurtherModelSpec] = {}
    """Further models of the same application, by their names in ``/v1/models``. A request's ``model`` says which one
    answers; each has replicas of its own."""
    application: ApplicationSpec | None = None
    """An application composed of the models, served at the same address."""
    engine: EngineSpec = EngineSpec()
    shards: ShardsSpec = ShardsSpec()
    """One model over several processes, for a model that is too large or too slow for one."""
    autoscaling_config: AutoscalingSpec = AutoscalingSpec()
    router: RouterSpec = RouterSpec()
    resources_per_replica: WorkerResources = WorkerResources()
    """Of a replica, and with ``shards`` of each of its shards."""
    weights: WeightsSpec = WeightsSpec()
    max_ongoing_requests: PositiveInt = 64
    """Requests in one replica at most; further ones wait in the router."""
    max_queued_requests: PositiveInt = 256
    """Requests waiting in the router at most; a further one gets 503 with Retry-After."""
    request_timeout_s: PositiveFloat = 300.0
    """A request that takes longer is cancelled and answered with 504; a request may ask for less in its header
    x-request-timeout-s."""
    auth: AuthSpec | None = None
    limits: LimitsSpec = LimitsSpec()
    request_log: RequestLog = "off"
    """facts: a line of JSON for each request in Serve's log of the ingress: key, model, tokens, seconds, how it ended.
    texts: with its prompt too."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 for every interface."""
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    """0 takes a free port."""
    route_prefix: Annotated[str, Field(pattern=r"^/"), Words("a path that begins with /")] = "/"
    cors_origins: Annotated[tuple[str, ...], ListInput] = ()
    """Origins such as https://chat.example.org whose web pages may ask from a browser; "*" for all. Default: none."""
    sample_prompt: str | None = None
    """What ``fastserve run`` asks the endpoint once it is up; default: a prompt of the task."""

    def of_further(self, name: str) -> ServeSpec:
        """How the further model of this name is served."""
        overrides = {
            key: value
            for key, value in self.models[name]
            if value is not None and key not in ("base", "revision", "task")
        }
        return self.model_copy(update={**overrides, "model_name": name, "models": {}, "application": None})
