"""Why a deployment does not start: the replica's own words out of Serve's status message."""

from __future__ import annotations

import re

EXCEPTION = re.compile(r"^(?:[\w.]*\.)?(\w+(?:Error|Exception|Exit|Interrupt))(?:: (.*))?$")
OURS = "fastserve_ray.errors."
FAILED = ("DEPLOY_FAILED", "UNHEALTHY")
"""Serve's words for an application that does not come up."""
MAX_LINES = 12


def cause_of(message: str) -> str:
    """The last exception that ``message`` shows, with its further lines; the whole message when it shows none.

    Serve's status holds the traceback of the replica's constructor as text. A FastServe-Ray error is preferred, for
    it says what to change.
    """
    lines = message.strip().splitlines()
    starts = [number for number, line in enumerate(lines) if EXCEPTION.match(line.strip())]
    ours = [number for number in starts if OURS in lines[number]]
    if not starts:
        return "\n".join(lines[-MAX_LINES:])
    start = (ours or starts)[-1]
    found = EXCEPTION.match(lines[start].strip())
    assert found is not None, "these lines matched"
    text = found[2] or "" if ours else lines[start].strip()
    return "\n".join([text, *_further_lines(lines[start + 1 :])])


def is_ours(message: str) -> bool:
    """Whether it shows an error of FastServe-Ray's: the model or its settings are at fault, and not, for example, a
    node that was lost while a replica started there."""
    return OURS in message


def _further_lines(lines: list[str]) -> list[str]:
    """Indented lines belong to the exception's text, up to the next traceback or blank line."""
    further = []
    for line in lines[: MAX_LINES - 1]:
        if not line.startswith("  ") or line.lstrip().startswith("File "):
            break
        further.append(line)
    return further
