"""Peers as processes: one that answers, one that answers wrongly, one that fails, one that is not there."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from pathlib import Path
from textwrap import dedent

import pytest

from benchmarks.engine_peers import names
from benchmarks.peers.bench import PEERS, Bench, measure_all
from benchmarks.peers.process import Command, PeerError, PeerProcess
from benchmarks.peers.workload import QUICK_SHAPE, Asked

ANSWERING = """
    from pathlib import Path
    from benchmarks.peers import adaptor

    class Echo:
        PACKAGES = ("rich",)

        def convert(self, source, target, precision):
            (target / "model").write_text(precision)

        def load(self, folder, threads, precision):
            print("a library prints what it likes")
            return self

        def run(self, asked, watch):
            for number, request in enumerate(asked):
                for token in range(request.length + MORE):
                    watch.saw(number, token)

    adaptor.main(Echo())
"""
ROOT = Path(__file__).parents[3]


def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> PeerProcess:
    (tmp_path / "a_peer.py").write_text(dedent(source))
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    command = Command(Path(sys.executable), "a_peer", ("serve", str(tmp_path), "1", "fp32"), tmp_path / "log")
    return PeerProcess(command, threads=1, timeout=60)


def test_rounds_are_answered_whatever_the_libraries_print(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(tmp_path, monkeypatch, ANSWERING.replace("MORE", "0"))
    try:
        for _ in range(2):
            results = process.run([Asked((1, 2), 3), Asked((1,), 1)])
            assert [result.tokens for result in results] == [(0, 1, 2), (0,)]
            assert all(0 <= result.first <= result.seconds for result in results)
        assert process.versions.keys() == {"rich"}
        assert process.ready_seconds > 0
    finally:
        process.stop()


def test_an_engine_that_generates_another_number_of_tokens_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(tmp_path, monkeypatch, ANSWERING.replace("MORE", "request.length - 1"))
    try:
        with pytest.raises(PeerError, match=r"generated \[5\] tokens where \[3\] were asked for"):
            process.run([Asked((1, 2), 3)])
    finally:
        process.stop()


def test_a_peer_that_fails_gives_its_last_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PeerError, match="ImportError: no such library"):
        start(tmp_path, monkeypatch, "raise ImportError('no such library')")


def test_an_absent_peer_is_reported_and_the_rest_goes_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path, QUICK_SHAPE, threads=1, rounds=1, starts=1, timeout=60, lock=nullcontext)
    measured = measure_all(bench, ["vllm fp32", "llama.cpp q8_0"], lambda _: None)
    assert all("no environment" in (one.failure or "") for one in measured.values())


def test_peers_are_chosen_by_the_beginnings_of_their_names() -> None:
    assert names("ours fp32,llama") == ("ours fp32", "llama.cpp fp32", "llama.cpp q8_0")
    assert set(names("ours,openvino,vllm,llama.cpp,hf")) == set(PEERS)
