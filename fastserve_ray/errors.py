"""The one family of errors.

Every error says what is wrong, the value, what is allowed and the key to change, and survives a process
boundary: an exception raised in a Ray worker arrives in the driver with all its fields.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Sequence


class FastServeError(Exception):
    """Base of all errors that a user can cause or must act on.

    Args:
        what: one sentence, what went wrong.
        value: the offending value, shown with ``repr`` unless it is a string; ``None`` leaves it out.
        allowed: what would have been accepted, in words.
        key: the dotted path of the YAML key, the flag or the argument to change.
        hint: what to do next, one sentence.
    """

    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        what: str,
        *,
        value: object = None,
        allowed: str | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.value = value if value is None or isinstance(value, str) else repr(value)
        self.allowed = allowed
        self.key = key
        self.hint = hint

    def __str__(self) -> str:
        parts = [self.what]
        if self.value is not None:
            parts.append(f"got: {self.value}")
        if self.allowed is not None:
            parts.append(f"allowed: {self.allowed}")
        if self.key is not None:
            parts.append(f"change: {self.key}")
        if self.hint is not None:
            parts.append(self.hint)
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.__dict__.copy(), self.args))


def _rebuild(cls: type[FastServeError], state: dict[str, Any], args: tuple[Any, ...]) -> FastServeError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


@dataclass(frozen=True)
class Problem:
    """One finding in a spec: where it is, what is wrong, and what would be right."""

    key: str
    """Dotted path of the key, for example ``train.parallel.zero``; empty for the whole file."""
    message: str
    value: str | None = None
    allowed: str | None = None
    nearest: str | None = None
    """The nearest known key or name, when the given one is unknown."""
    file: str | None = None
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = f"{where}: " if where else ""
        text += f"{self.key}: {self.message}" if self.key else self.message
        if self.value is not None:
            text += f" (got {self.value})"
        if self.allowed is not None:
            text += f"; allowed: {self.allowed}"
        if self.nearest is not None:
            text += f"; did you mean {self.nearest!r}?"
        return text


class SpecError(FastServeError, ValueError):
    """The YAML file is wrong; carries every problem found, not only the first."""

    exit_code = 2

    def __init__(self, problems: Sequence[Problem]) -> None:
        count = len(problems)
        super().__init__(f"{count} problem{'s' if count != 1 else ''} in the spec")
        self.problems = tuple(problems)

    def __str__(self) -> str:
        return "\n".join([self.what, *(f"  {problem}" for problem in self.problems)])


class UsageError(FastServeError, ValueError):
    """A flag or an argument is wrong; nothing was started."""

    exit_code = 2


class UnknownNameError(UsageError):
    """A name that no table holds; the message lists the known ones."""


class PlacementError(FastServeError):
    """The resources asked for cannot be had on the machines present; nothing was started."""

    exit_code = 2


class StorageError(FastServeError):
    """Storage could not be read or written."""


class ArtifactError(FastServeError):
    """An artifact is missing, damaged or of another kind than asked."""


class DataError(FastServeError, ValueError):
    """Input data cannot be read or do not have the expected form."""


class ModelError(FastServeError, ValueError):
    """A model cannot be loaded, or does not fit the task."""


class TrainingError(FastServeError):
    """Training could not go on."""


class TuneError(FastServeError):
    """The search could not go on."""


class CompressionError(FastServeError, ValueError):
    """A compression step cannot be applied to this model."""


class VerificationError(FastServeError):
    """The model did not pass the gate; it is not served."""


class EngineError(FastServeError):
    """The inference engine cannot run this model or request."""


class EngineFullError(EngineError):
    """The engine has as many requests waiting as it may; the same request is welcome later."""


class WeightStoreError(FastServeError):
    """The weight store cannot hold or give a model's weights."""


class ServeError(FastServeError):
    """The serving application could not be deployed."""
