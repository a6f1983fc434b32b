"""Tools in chats: what a request offers, and the calls in messages and answers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, JsonValue
from pydantic_core import PydanticCustomError

from fastserve_ray.engines.protocol import Constraint, JsonSchema
from fastserve_ray.serve.wire.base import WireAnswer, WireRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_TOOLS = 128
MAX_CALLS = 16
"""Calls in one answer where the request forces some."""
DEFS = "$defs"

ToolName = Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class FunctionTool(WireRequest):
    name: ToolName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    """JSON schema of the arguments, an object's."""
    strict: bool | None = None
    """Without effect: arguments fulfil the schema where the request forces a call."""

    @property
    def schema_of_arguments(self) -> dict[str, JsonValue]:
        return self.parameters or {"type": "object", "properties": {}}


class Tool(WireRequest):
    type: Literal["function"]
    function: FunctionTool

    def for_template(self) -> dict[str, object]:
        """As chat templates expect it."""
        function = {
            "name": self.function.name,
            "description": self.function.description or "",
            "parameters": self.function.schema_of_arguments,
        }
        return {"type": "function", "function": function}


class ChosenFunction(WireRequest):
    name: ToolName


class NamedTool(WireRequest):
    type: Literal["function"]
    function: ChosenFunction


ToolChoice = Literal["none", "auto", "required"] | NamedTool


class CalledFunction(WireRequest):
    name: str
    arguments: str
    """JSON, an object."""


class MessageToolCall(WireRequest):
    """A call that the assistant made in an earlier turn."""

    id: str
    type: Literal["function"]
    function: CalledFunction

    def for_template(self) -> dict[str, object]:
        """As chat templates expect it: arguments as an object."""
        try:
            arguments = json.loads(self.function.arguments)
        except ValueError as error:
            raise PydanticCustomError(
                "arguments", "the arguments of a tool call are no JSON: {error}", {"error": str(error)}
            ) from error
        return {
            "id": self.id,
            "type": "function",
            "function": {"name": self.function.name, "arguments": arguments},
        }


def forced_calls(tools: Sequence[Tool], choice: ToolChoice, *, is_parallel: bool) -> Constraint | None:
    """What makes sure of calls: None unless ``choice`` forces some.

    Raises:
        PydanticCustomError: the schemas of two tools have different definitions of one name.
    """
    if isinstance(choice, NamedTool):
        tool = next(tool for tool in tools if tool.function.name == choice.function.name)
        return JsonSchema(json.dumps(tool.function.schema_of_arguments))
    if choice != "required":
        return None
    shared: dict[str, JsonValue] = {}
    forms = [_form(tool.function, shared) for tool in tools]
    schema: dict[str, object] = {
        "type": "array",
        "minItems": 1,
        "maxItems": MAX_CALLS if is_parallel else 1,
        "items": {"anyOf": forms},
    }
    if shared:
        schema[DEFS] = shared
    return JsonSchema(json.dumps(schema))


def _form(function: FunctionTool, shared: dict[str, JsonValue]) -> dict[str, object]:
    """A call of ``function``. What its schema defines moves to the root, where its references look for it."""
    arguments = dict(function.schema_of_arguments)
    definitions = arguments.pop(DEFS, {})
    assert isinstance(definitions, dict)
    for name, definition in definitions.items():
        if shared.setdefault(name, definition) != definition:
            raise PydanticCustomError(
                "defs", "two tools define {name} differently; rename one of them", {"name": name, "param": "tools"}
            )
    return {
        "type": "object",
        "properties": {"name": {"const": function.name}, "arguments": arguments},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


class FunctionCall(WireAnswer):
    name: str
    arguments: str
    """JSON."""


class AnswerToolCall(WireAnswer):
    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class FunctionFragment(WireAnswer):
    name: str | None = None
    arguments: str


class ToolCallFragment(WireAnswer):
    """A part of a call in a stream: the first has id, type and name; the arguments of all of them join to JSON."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: FunctionFragment
