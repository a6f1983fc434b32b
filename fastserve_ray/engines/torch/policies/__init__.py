"""Orders of service, one module a policy; each decides, none acts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastserve_ray.lazy import LazyTable

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.policies.protocol import Policy
    from fastserve_ray.engines.torch.profile import Profile
    from fastserve_ray.spec.serve import SchedulerSpec

POLICIES = LazyTable(
    "scheduling policy",
    "serve.engine.scheduler.policy",
    {
        "fcfs": "fastserve_ray.engines.torch.policies.fcfs:Fcfs",
        "skip-join-mlfq": "fastserve_ray.engines.torch.policies.skip_join_mlfq:SkipJoinMlfq",
        "srpt": "fastserve_ray.engines.torch.policies.srpt:Srpt",
        "fair": "fastserve_ray.engines.torch.policies.fair:Fair",
    },
)


def needs_profile(spec: SchedulerSpec) -> bool:
    """Whether the policy that ``spec`` names wants the model's speed measured when the engine opens; that takes a
    second or so. A class says that it does not by ``NEEDS_PROFILE = False``.

    Raises:
        UnknownNameError: there is no such policy.
    """
    return bool(getattr(POLICIES.load(spec.policy), "NEEDS_PROFILE", True))


def make_policy(spec: SchedulerSpec, profile: Profile) -> Policy:
    """The policy that ``spec`` names; a third party's is called with the same arguments.

    Raises:
        UnknownNameError: there is no such policy.
    """
    policy: Policy = POLICIES.load(spec.policy)(spec, profile)
    return policy
