"""The client of the request that is being answered, as the door found it."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastserve_ray.spec.keys import ApiKey


@dataclass
class Caller:
    """Lives as long as its request."""

    key: ApiKey | None = None
    """None where the server asks for no keys."""
    request_id: str = ""
    arrived_at: float | None = None
    """On the event loop's clock."""
    timeout_s: float | None = None
    """What the request's header asks for, from its arrival on."""
    headers: dict[str, str] = field(default_factory=dict)
    """To send with the answer: what is left of the client's quota."""

    @property
    def name(self) -> str:
        """Empty where the server asks for no keys."""
        return self.key.name if self.key is not None else ""

    @property
    def label(self) -> str:
        """In the metrics."""
        return self.key.label if self.key is not None else ""

    def deadline(self, cap_s: float, now: float) -> float:
        """When its request must be answered, on the event loop's clock.

        Args:
            cap_s: what the model's deployment allows.
        """
        start = now if self.arrived_at is None else self.arrived_at
        return start + (cap_s if self.timeout_s is None else min(cap_s, self.timeout_s))


_CALLER: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Of the request in whose task this is called; nobody's in another task."""
    return _CALLER.get(None) or Caller()


def set_caller(caller: Caller) -> None:
    """From here on in this task and those that it starts."""
    _CALLER.set(caller)
