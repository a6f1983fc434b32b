"""Ranks as processes: they start, follow, die and end; nothing hangs and nothing is left."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from multiprocessing import active_children
from typing import TYPE_CHECKING

import pytest
import torch

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch.shards.factory import open_sharded_engine
from fastserve_ray.errors import EngineError, ModelError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_model, generate, greedy
from tests.engines.torch.shards.ranks import save
from tests.engines.torch.shards.test_tokens import MAX_TOKENS, PROMPTS, drive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastserve_ray.engines.torch.engine import TorchEngine

SPEC = EngineSpec(max_num_seqs=5, max_num_batched_tokens=16, kv_cache_tokens=256)
TIMEOUT_S = 20.0


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    """A sharded engine takes its share of torch's threads."""
    num_threads = torch.get_num_threads()
    yield
    torch.set_num_threads(num_threads)


def drain(engine: TorchEngine) -> None:
    while engine.has_work():
        engine.step()


@pytest.mark.slow
def test_two_processes_then_one_dies(tmp_path: Path) -> None:
    model = build_model("llama")
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    engine = open_sharded_engine(save(model, tmp_path), SPEC, num_shards=2, timeout_s=TIMEOUT_S)
    with closing(engine):
        completions = generate_all(engine, [greedy(at, prompt, MAX_TOKENS) for at, prompt in enumerate(PROMPTS)])
        assert [completion.token_ids for completion in completions] == expected
        (child,) = active_children()
        engine.add_request(greedy("a", PROMPTS[0], MAX_TOKENS))
        assert engine.step()
        os.kill(child.pid or 0, signal.SIGKILL)
        with pytest.raises(EngineError, match=rf"shard 1 \(pid {child.pid}\) ended with exit code -9"):
            drain(engine)
        with pytest.raises(EngineError, match="cannot go on"):
            engine.step()
    assert active_children() == []


@pytest.mark.slow
def test_a_process_that_hangs_is_ended_at_the_deadline(tmp_path: Path) -> None:
    engine = open_sharded_engine(save(build_model("gpt2"), tmp_path), SPEC, num_shards=2, timeout_s=5)
    with closing(engine):
        (child,) = active_children()
        os.kill(child.pid or 0, signal.SIGSTOP)
        engine.add_request(greedy("a", PROMPTS[0], MAX_TOKENS))
        with pytest.raises(EngineError, match="did not answer in time"):
            engine.step()
        assert active_children() == []


@pytest.mark.slow
def test_four_processes(tmp_path: Path) -> None:
    """Requests join and leave; two key and value heads over four ranks."""
    model = build_model("qwen2")
    expected = [generate(model, prompt, MAX_TOKENS) for prompt in PROMPTS]
    with closing(open_sharded_engine(save(model, tmp_path), SPEC, num_shards=4, timeout_s=TIMEOUT_S)) as engine:
        assert len(active_children()) == 3
        tokens = drive(engine)
    assert active_children() == []
    for at, want in enumerate(expected):
        got = tuple(tokens[str(at)])
        assert got == want[: len(got)]
        assert len(got) == len(want) or at == 1


@pytest.mark.slow
def test_a_folder_that_cannot_be_read_leaves_no_process(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    (folder / "model.safetensors").write_bytes(b"damaged")
    with pytest.raises(ModelError, match="cannot be read in shards"):
        open_sharded_engine(folder, SPEC, num_shards=2, timeout_s=TIMEOUT_S)
    assert active_children() == []


def test_a_process_that_does_not_start_is_told_of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ends without a word, as where the calling script has no ``if __name__ == '__main__'``."""
    folder = save(build_model("llama"), tmp_path)
    monkeypatch.setattr("fastserve_ray.engines.torch.shards.processes._host", print)
    with pytest.raises(EngineError, match=r"shard 1 \(pid \d+\) ended with exit code 0"):
        open_sharded_engine(folder, SPEC, num_shards=2, timeout_s=TIMEOUT_S)


def test_what_cannot_be_cut_is_refused_before_a_process_starts(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    with pytest.raises(EngineError, match="cannot be shared among 3 shards"):
        open_sharded_engine(folder, SPEC, num_shards=3)
    with pytest.raises(ModelError, match="model folder"):
        open_sharded_engine(tmp_path / "nothing", SPEC, num_shards=2)
    assert active_children() == []
