"""Orders of service, one module a policy; each decides, none acts."""

from fastserve_ray.lazy import LazyTable

POLICIES = LazyTable(
    "scheduling policy", "serve.engine.scheduler.policy", {"fcfs": "fastserve_ray.engines.torch.policies.fcfs:Fcfs"}
)
