from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from fastserve_ray.errors import SpecError
from fastserve_ray.spec.access import AuthSpec
from fastserve_ray.spec.keys import KEY_BYTES, ApiKey, hash_of, load_keys, new_key, parse_keys

if TYPE_CHECKING:
    from pathlib import Path

HASH = hash_of("fsr-secret")
TEXT = f"""
keys:
  - {{name: alice, sha256: {HASH}, weight: 2.0, requests_per_minute: 60, models: [chat]}}
  - {{name: bob, sha256: {hash_of("other")}, group: guests}}
"""


def problems(text: str) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        parse_keys(text, "keys.yaml")
    return {problem.key: str(problem) for problem in caught.value.problems}


def test_a_file_of_keys() -> None:
    alice, bob = parse_keys(TEXT, "keys.yaml")
    assert alice == ApiKey(name="alice", sha256=HASH, weight=2.0, requests_per_minute=60, models=("chat",))
    assert (alice.label, bob.label) == ("alice", "guests")


def test_mistakes_are_shown_with_their_lines_and_without_secrets() -> None:
    found = problems("keys:\n  - name: alice\n    sha256: fsr-secret\n  - {name: bob, rpm: 1}\n")
    assert found["keys.0.sha256"].startswith("keys.yaml:3:5: ")
    assert "fsr-secret" not in "".join(found.values())
    assert "unknown key" in found["keys.1.rpm"]
    assert "keys.1.sha256" in found


def test_a_name_or_a_key_that_stands_twice() -> None:
    entry = f"  - {{name: alice, sha256: {HASH}}}\n"
    assert set(problems(f"keys:\n{entry}{entry}")) == {"keys.1.name", "keys.1.sha256"}


@pytest.mark.parametrize("text", ["", "keys: []", "keys: {", "- a"])
def test_a_file_without_keys_is_refused(text: str) -> None:
    assert problems(text)


def test_from_a_file_or_the_environment(tmp_path: Path) -> None:
    (tmp_path / "keys.yaml").write_text(TEXT)
    from_file = load_keys(AuthSpec(keys_file=str(tmp_path / "keys.yaml")))
    assert from_file == load_keys(AuthSpec(keys_env="KEYS"), {"KEYS": TEXT})
    for auth, key in (
        (AuthSpec(), "serve.auth"),
        (AuthSpec(keys_file="a", keys_env="b"), "serve.auth"),
        (AuthSpec(keys_env="KEYS"), "serve.auth.keys_env"),
        (AuthSpec(keys_file=str(tmp_path / "none.yaml")), "serve.auth.keys_file"),
    ):
        with pytest.raises(SpecError) as caught:
            load_keys(auth, {})
        assert caught.value.problems[0].key == key


def test_new_keys_differ_and_are_long() -> None:
    keys = {new_key() for _ in range(10)}
    assert len(keys) == 10
    assert all(len(key) > KEY_BYTES for key in keys)
