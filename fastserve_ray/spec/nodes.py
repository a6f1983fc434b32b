"""``cluster.available_node_types``: the machines or pods that a cluster may consist of."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue

from fastserve_ray.spec.base import ListInput, NonNegativeInt, PositiveInt, Section, Words

if TYPE_CHECKING:
    from collections.abc import Mapping

Quantity = Annotated[str, Field(pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$"), Words("a size such as 512Mi, 16Gi or 1Ti")]
"""Bytes, as Kubernetes writes them."""
RESOURCE_GRAIN = 1e-4
"""Ray's own, of amounts of resources."""
_UNITS = {"Mi": 2**20, "Gi": 2**30, "Ti": 2**40}

NodeTypeName = Annotated[
    str,
    Field(pattern=r"^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$"),
    Words("a name of up to 40 lower-case letters, digits and '-', with a letter first"),
]


def bytes_of(quantity: str) -> int:
    """Of a legal ``Quantity``."""
    return int(quantity[:-2]) * _UNITS[quantity[-2:]]


def num_places(resources: Mapping[str, float], each: Mapping[str, float]) -> int:
    """How many bundles a node with these resources holds.

    Args:
        each: what a bundle asks for, by Ray's names; some amount is above 0.
    """
    return min(int(resources.get(kind, 0) / amount + RESOURCE_GRAIN) for kind, amount in each.items() if amount)


class NodeResources(Section):
    """What one node has; in Kubernetes both request and limit of its pod."""

    CPU: PositiveInt
    """Processors of the node."""
    GPU: NonNegativeInt = 0
    """NVIDIA GPUs of the node; in Kubernetes ``nvidia.com/gpu``."""
    memory: Quantity | None = None
    """Memory of the node, for example 64Gi. Kubernetes needs it; elsewhere default: what the machine has."""
    custom: dict[Annotated[str, Field(pattern=r"^[A-Za-z][\w.-]*$")], PositiveInt] = {}
    """Ray's custom resources by name."""


class TolerationSpec(Section):
    """A taint of Kubernetes nodes that pods of this type accept; Kubernetes' own names."""

    key: str | None = None
    """Of the taint; default: every taint."""
    operator: Literal["Equal", "Exists"] = "Exists"
    value: str | None = None
    """Of the taint, with Equal."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """Default: every effect."""


class NodeTypeSpec(Section):
    """One kind of machine or pod."""

    resources: NodeResources
    min_workers: NonNegativeInt = 0
    """Nodes of this type that are always there."""
    max_workers: NonNegativeInt | None = None
    """Nodes of this type at most; default: ``cluster.max_workers``, without that ``min_workers``. For the head's type
    0, which is its default: the head is not counted."""
    node_config: dict[str, JsonValue] = {}
    """``ray up``: what the provider takes, for example ``{InstanceType: p4d.24xlarge}``."""
    labels: dict[str, str] = {}
    """Ray's labels of the node, for label selectors."""
    image: str | None = None
    """Container image of this type; default: ``cluster.image``."""
    node_selector: dict[str, str] = {}
    """Kubernetes: labels of the machines that its pods run on."""
    tolerations: Annotated[tuple[TolerationSpec, ...], ListInput] = ()
    """Kubernetes: taints that its pods accept; GPU machines often have one."""

    def places(self, cpus: float, gpus: float) -> int:
        """How many bundles of so many processors (more than 0) and GPUs one node holds."""
        return num_places({"CPU": self.resources.CPU, "GPU": self.resources.GPU}, {"CPU": cpus, "GPU": gpus})


class AutoscalerSpec(Section):
    """How the cluster grows and shrinks, where a type's ``max_workers`` is above its ``min_workers``."""

    idle_timeout_s: PositiveInt = 60
    """A node that has had nothing to do for so long is given back."""
    upscaling_mode: Literal["Default", "Aggressive", "Conservative"] = "Default"
    """Conservative adds no more nodes at a time than there are; the others add all that are asked for at once."""
    version: Literal["v1", "v2"] = "v2"
    """Of Ray's autoscaler."""
