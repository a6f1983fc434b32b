"""``model.chat_template``: Jinja text, or the name of a file that holds it."""

from __future__ import annotations

from pathlib import Path

from fastserve_ray.errors import ModelError

KEY = "model.chat_template"


def is_file_name(given: str) -> bool:
    """A template without any expression would write the same for every conversation."""
    return "{" not in given


def read_template(given: str) -> str:
    """The Jinja text.

    Raises:
        ModelError: the file cannot be read.
    """
    if not is_file_name(given):
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ModelError(
            f"the file of the chat template cannot be read: {reason}",
            value=given,
            allowed="Jinja text, or a local file that holds it",
            key=KEY,
        ) from error
