"""What a user sees once the model is served; from the fields of the ``served`` event."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pydantic import JsonValue


def served_lines(fields: Mapping[str, JsonValue]) -> list[str]:
    """Sample, the command that repeats it, and where to look.

    Args:
        fields: ``url``, ``model``, and when a sample was asked ``prompt``, ``answer``, ``curl``; ``links`` by name.
    """
    lines = ["", f"Serving {fields.get('model')} at {fields.get('url')}"]
    if "answer" in fields:
        lines += ["", f"  prompt  {fields.get('prompt')!r}", f"  answer  {fields.get('answer')!r}"]
        lines += ["", "Ask again:", f"  {fields.get('curl')}"]
    links = fields.get("links")
    if isinstance(links, dict) and links:
        width = max(len(name) for name in links)
        lines += ["", "Look at:", *(f"  {name:<{width}}  {link}" for name, link in links.items())]
    return [*lines, ""]
