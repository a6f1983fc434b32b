from __future__ import annotations

import socket
from pathlib import Path

import pytest

from fastserve_ray.cli import doctor_checks
from fastserve_ray.cli.doctor_checks import (
    TESTED,
    check_cpu,
    check_disk,
    check_packages,
    check_port,
    check_python,
    check_shared_memory,
    check_storage,
)
from tests.cli.commands import fastserve

QUICKSTART = str(Path(__file__).parents[2] / "cluster" / "quickstart.yaml")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", f"storage={tmp_path}", "--set", "serve.port=0")
    outcome = fastserve(capsys, "doctor", QUICKSTART, "--json", *flags)
    checks = {check["name"]: check for check in outcome.data["checks"]}
    assert {"python", "torch", "ray", "cpu", "gpu", "memory", "shared memory", "disk", "storage", "port"} <= set(checks)
    assert outcome.code == (0 if outcome.data["ok"] else 1)
    assert checks["python"]["level"] == checks["storage"]["level"] == checks["port"]["level"] == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_failed_check_is_exit_code_1_and_has_a_fix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("x")
    outcome = fastserve(capsys, "doctor", QUICKSTART, "--set", f"storage={tmp_path}/file/runs")
    assert outcome.code == 1
    assert "fail" in outcome.out


def test_overrides_need_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert fastserve(capsys, "doctor", "--set", "name=x").code == 2


@pytest.mark.parametrize(("version", "level"), [((3, 10, 9), "fail"), ((3, 11, 0), "ok"), ((3, 14, 0), "fail")])
def test_python(version: tuple[int, ...], level: str) -> None:
    assert check_python(version).level == level


def test_packages() -> None:
    missing, other, right = check_packages({"no-such-package": "1.0", "pydantic": "1.0.0", "click": "8.5.0"})
    assert (missing.level, other.level, right.level) == ("fail", "warn", "ok")
    assert "pip install" in (missing.fix or "")
    assert "1.0.0" in (other.fix or "")


def test_the_tested_versions_are_those_of_the_constraints() -> None:
    pinned = dict(line.split("==") for line in CONSTRAINTS.read_text().splitlines() if "==" in line)
    assert {name: pinned[name] for name in TESTED} == TESTED


def test_cpu_features() -> None:
    assert "avx2, avx512, vnni, bf16" in check_cpu(frozenset({"avx2", "avx512f", "avx512_vnni", "amx_bf16"})).found
    assert "precision: fp32" in check_cpu(frozenset({"avx2"})).found
    assert "unknown" in check_cpu(None).found


def test_cpu_flags_are_read(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nflags\t\t: fpu avx2\n\nprocessor\t: 1\nflags\t\t: other\n")
    assert doctor_checks._cpu_flags(cpuinfo) == frozenset({"fpu", "avx2"})
    assert doctor_checks._cpu_flags(tmp_path / "absent") is None


def test_disk_and_shared_memory(tmp_path: Path) -> None:
    assert str(tmp_path) in check_disk(str(tmp_path / "not" / "yet" / "there")).found
    assert check_disk("s3://bucket/runs").level == "ok"
    assert check_shared_memory(tmp_path / "absent").level == "ok"


@pytest.mark.parametrize(("free", "level"), [(0.5, "fail"), (3, "warn"), (9, "ok")])
def test_levels_of_disk(free: float, level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": free * 2**30, "total": 100 * 2**30})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    check = check_disk(str(tmp_path))
    assert check.level == level
    assert (check.fix is None) == (level == "ok")


def test_storage(tmp_path: Path) -> None:
    assert check_storage(str(tmp_path)).level == "ok"
    failed = check_storage("gopher://nowhere")
    assert failed.level == "fail"
    assert failed.fix


def test_a_port_in_use_is_a_warning() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = check_port("127.0.0.1", port)
    assert check.level == "warn"
    assert "serve.port=0" in (check.fix or "")
    assert check_port("127.0.0.1", port).level == "ok"
