"""The Dockerfile's promises. No image is built here: there is no Docker engine."""

from __future__ import annotations

import re

import pytest

from tests.image.dockerfile import ROOT, copied, lineage, read_stages

STAGES = read_stages()
BUILT_FOR = {"serve": "serving", "train": "training"}


@pytest.mark.parametrize("stage", STAGES.values(), ids=lambda stage: str(stage.name))
def test_bases_are_stages_or_images_of_one_version(stage: object) -> None:
    base = getattr(stage, "base", "")
    assert base in STAGES or re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", base), base


@pytest.mark.parametrize("target", BUILT_FOR)
def test_an_image_runs_as_nobody_special_and_has_what_was_built_for_it(target: str) -> None:
    stages = lineage(STAGES, target)
    assert stages[-1].all("USER") == ["1000:1000"]
    assert stages[-1].steps[-1][0] == "USER"
    (copy,) = stages[-1].all("COPY")
    assert copy == f"--from={BUILT_FOR[target]} /opt/venv /opt/venv"
    assert [text.strip('[]"') for stage in stages for text in stage.all("ENTRYPOINT")] == ["fastserve"]


def test_a_serving_image_has_neither_deepspeed_nor_a_compiler() -> None:
    install = [text for stage in lineage(STAGES, "serving") for text in stage.all("RUN") if "pip install" in text]
    assert all("--no-deps" in text for text in install), "nothing comes but what is named"
    assert "pip install --no-deps --requirement requirements-serving.txt" in install
    assert "deepspeed" not in (ROOT / "requirements-serving.txt").read_text()
    assert not any("apt-get" in text for stage in lineage(STAGES, "serve") for text in stage.all("RUN"))


@pytest.mark.parametrize("built", BUILT_FOR.values())
def test_every_installation_is_pinned(built: str) -> None:
    for stage in lineage(STAGES, built):
        for text in stage.all("RUN"):
            if "pip install" in text and not text.endswith(" ."):
                assert "constraints.txt" in text or "requirements-serving.txt" in text, text
            if text.endswith("pip install ."):
                assert "constraints.txt" in text, text


@pytest.mark.parametrize("built", BUILT_FOR.values())
def test_what_is_copied_is_there_and_in_the_context(built: str) -> None:
    kept = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    paths = copied(lineage(STAGES, built))
    assert set(paths) <= kept
    assert all((ROOT / path).exists() for path in paths)


def test_both_flavours_are_stages() -> None:
    assert {"torch-cpu", "torch-cuda"} <= STAGES.keys()
    assert lineage(STAGES, "serve")[0].base == lineage(STAGES, "build")[0].base, "one Python builds and runs"
