"""What a scheduling policy sees and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class Job(Protocol):
    """A request as a policy sees it; read-only."""

    @property
    def arrival(self) -> int:
        """Counts up with every request that the engine accepted."""
        ...

    @property
    def num_prompt_tokens(self) -> int: ...

    @property
    def num_computed_tokens(self) -> int:
        """Tokens whose keys and values are in the cache."""
        ...

    @property
    def num_completion_tokens(self) -> int: ...


JobT = TypeVar("JobT", bound=Job)


@dataclass(frozen=True)
class Decision(Generic[JobT]):
    """Who is served in this step."""

    order: Iterable[JobT]
    """Jobs in the order in which they get tokens of the step's budget. A waiting job that cannot be admitted holds
    back all after it, so that a large request is not overtaken for ever."""


class Policy(Protocol):
    """Stateless or with state of its own; touches no clock, file or tensor."""

    def decide(self, running: Collection[JobT], waiting: Collection[JobT]) -> Decision[JobT]:
        """``running`` is in order of admission, ``waiting`` in order of arrival."""
        ...
