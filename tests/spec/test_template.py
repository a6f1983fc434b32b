"""Chat templates in files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import ModelError
from fastserve_ray.spec.template import read_template

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE = "{% for message in messages %}{{ message.content }}{% endfor %}"


def test_a_template_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "chat.jinja").write_text(TEMPLATE)
    assert read_template(str(tmp_path / "chat.jinja")) == TEMPLATE
    assert read_template(TEMPLATE) == TEMPLATE


@pytest.mark.parametrize("name", ["chat.jinj", ".", "s3://bucket/chat.jinja", "latin.jinja"])
def test_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Nothing, a folder, a URI, and what is not UTF-8."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="cannot be read") as caught:
        read_template(name)
    assert (caught.value.key, caught.value.value) == ("model.chat_template", name)
