from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest

from fastserve_ray import __version__
from fastserve_ray.cli import doctor_checks
from fastserve_ray.cli.doctor_checks import (
    GIB,
    TESTED,
    check_cpu,
    check_dashboard_port,
    check_disk,
    check_object_store,
    check_packages,
    check_port,
    check_python,
    check_storage,
)
from fastserve_ray.cli.doctor_cluster import check_node, check_skew
from tests.cli.commands import fastserve

QUICKSTART = str(Path(__file__).parents[2] / "cluster" / "quickstart.yaml")
CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"


def test_this_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ("--set", f"storage={tmp_path}", "--set", "serve.port=0")
    outcome = fastserve(capsys, "doctor", QUICKSTART, "--json", *flags)
    checks = {check["name"]: check for check in outcome.data["checks"]}
    assert {"python", "torch", "ray", "cpu", "gpu", "memory", "object store", "disk", "storage", "port"} <= set(checks)
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


def test_disk(tmp_path: Path) -> None:
    assert str(tmp_path) in check_disk(str(tmp_path / "not" / "yet" / "there")).found
    assert check_disk("s3://bucket/runs").level == "ok"


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


def test_the_object_store_against_the_shared_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = type("Usage", (), {"free": 2 * GIB})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    fits = check_object_store(tmp_path, 4 * GIB, None)
    assert (fits.level, fits.found.split(" (")[0]) == ("ok", "1.2 GiB")
    large = check_object_store(tmp_path, 20 * GIB, None)
    assert (large.level, large.found.split(" (")[0]) == ("warn", "6.0 GiB")
    assert large.fix == "in a container --shm-size=6g; or cluster.object_store_memory_mb: 1945"
    assert check_object_store(tmp_path, 20 * GIB, 1024).level == "ok"
    assert check_object_store(tmp_path, 20 * GIB, 4096).level == "warn"
    usage.free = 64 * 2**20  # type: ignore[attr-defined]
    assert check_object_store(tmp_path, 20 * GIB, None).fix == "in a container --shm-size=6g"
    assert check_object_store(tmp_path / "absent", 20 * GIB, None).level == "ok"


def test_a_taken_dashboard_port_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(doctor_checks, "DASHBOARD_PORT", taken.getsockname()[1])
        assert check_dashboard_port().level == "ok"
        assert "takes the next free one" in check_dashboard_port().found


def test_a_cluster_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    checks = fastserve(capsys, "doctor", "--address", "http://127.0.0.1:1", "--json").data["checks"]
    assert checks[-1]["name"] == "cluster"
    assert checks[-1]["level"] == "fail"
    assert "no Ray dashboard answers" in checks[-1]["found"]
    assert "ray start --head" in checks[-1]["fix"]


def test_versions_that_differ_are_warned_of() -> None:
    same, other = check_skew({"rayVersion": "2.60.1", "pythonVersion": "3.12.1"}, {"ray": "2.60.0", "python": "3.11.2"})
    assert (same.level, other.level) == ("ok", "warn")
    assert other.found == "3.12.1 there, 3.11.2 here"


REPORT: dict[str, Any] = {
    "ip": "10.0.0.2",
    "python": "3.11.2",
    "versions": {"fastserve-ray": __version__, **TESTED},
    "shared_memory": 4 * GIB,
    "disk": 40 * GIB,
    "storage": "ok",
}


@pytest.mark.parametrize(
    ("change", "level", "words"),
    [
        ({"versions": {**REPORT["versions"], "fastserve-ray": None}}, "fail", "fastserve-ray is not installed"),
        ({"versions": {**REPORT["versions"], "fastserve-ray": "0.0.1"}}, "warn", "fastserve-ray 0.0.1 there"),
        ({"versions": {**REPORT["versions"], "torch": None}}, "fail", "not installed: torch"),
        ({"versions": {**REPORT["versions"], "torch": "2.1.0+cu118"}}, "warn", "torch 2.1.0+cu118"),
        ({"shared_memory": GIB // 2}, "warn", "0.5 GiB of shared memory free"),
        ({"disk": GIB}, "warn", "1.0 GiB free in /tmp"),
        ({"storage": "no bucket"}, "fail", "storage cannot be written: no bucket"),
    ],
)
def test_a_node_that_lacks_something(change: dict[str, object], level: str, words: str) -> None:
    (sound,) = check_node(REPORT)
    assert sound.level == "ok"
    assert "storage can be written" in sound.found
    finding, _ = check_node({**REPORT, **change})
    assert finding.level == level
    assert words in finding.found
    assert finding.name == "node 10.0.0.2"
    assert finding.fix
