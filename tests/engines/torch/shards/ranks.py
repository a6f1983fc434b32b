"""Ranks as threads of the test's process: the same code and the same sockets, without seconds of imports a rank."""

from __future__ import annotations

from threading import Thread
from typing import TYPE_CHECKING, Any

import torch
from torch.distributed import HashStore

from fastserve_ray.engines.torch.shards.collectives import connect
from fastserve_ray.engines.torch.shards.factory import Seat, open_leading_engine, run_shard
from fastserve_ray.engines.torch.shards.loading import load_share
from fastserve_ray.errors import EngineError, FastServeError, ModelError
from fastserve_ray.models.loading import save_model
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.torch.engine import TorchEngine
    from fastserve_ray.engines.torch.shards.factory import ReadShare

HOST = "127.0.0.1"
TIMEOUT_S = 30.0


class RankThreads:
    """Ranks 1 and up; see `shards.runner.Peers`."""

    def __init__(self, num_shards: int, init_method: str, model: Path | ReadShare, spec: EngineSpec) -> None:
        self.errors: list[FastServeError] = []
        self._threads = [
            Thread(target=self._follow, args=(rank, num_shards, init_method, model, spec), daemon=True)
            for rank in range(1, num_shards)
        ]
        for thread in self._threads:
            thread.start()

    def explain(self) -> str | None:
        return "; ".join(map(str, self.errors)) or None

    def close(self) -> None:
        for thread in self._threads:
            thread.join(TIMEOUT_S)
            assert not thread.is_alive(), "a rank follows although rank 0 has stopped"

    def kill(self) -> None:
        pass  # a thread cannot be killed; it ends at its deadline

    def _follow(self, *arguments: Any) -> None:
        try:
            run_shard(*arguments, seat=Seat(HOST), timeout_s=TIMEOUT_S)
        except (EngineError, ModelError) as error:
            self.errors.append(error)


def save(model: Any, folder: Path) -> Path:
    save_model(model, build_tokenizer(), folder)
    return folder


def open_over_threads(model: Path | ReadShare, num_shards: int, meeting: Path | str, **spec: Any) -> TorchEngine:
    """An engine over ``num_shards`` ranks that meet in a file which does not exist yet, or at a URL."""
    settings = EngineSpec(**spec)
    url = meeting if isinstance(meeting, str) else meeting.as_uri()
    peers = RankThreads(num_shards, url, model, settings)
    return open_leading_engine(num_shards, url, model, settings, peers=peers, seat=Seat(HOST), timeout_s=TIMEOUT_S)


def logits_over_threads(folder: Path, num_shards: int, ids: torch.Tensor) -> torch.Tensor:
    """What ``num_shards`` ranks compute for ``ids`` (1, T) without an engine: (1, T, vocabulary)."""
    store, results = HashStore(), {}

    def run(rank: int) -> None:
        collectives = connect(store, rank, num_shards, host=HOST, timeout_s=TIMEOUT_S)
        model, _ = load_share(folder, collectives)
        with torch.inference_mode():
            results[rank] = model(input_ids=ids, use_cache=False).logits

    threads = [Thread(target=run, args=(rank,)) for rank in range(num_shards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results[0]
