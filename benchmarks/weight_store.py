"""The weight store: what a replica's weights cost in private memory and in time, fetches over nodes, layer streaming.

Part 1, one node: replicas of one model as processes, first each with a copy of its own, then over the store. Private
memory is the unique set size (USS) that a process gained between its imports and its first answers, all replicas
alive; of PSS, which shares out pages by their number of users, the gain is shown too. Never RSS, which counts shared
pages in full. The KV cache is kept small, and is counted.

Part 2, two raylets on this machine: bytes that arrive on a node without the weights while two of its replicas read.

Part 3, the same two nodes, and an object store on the second one that holds a part of the layers only: layers are
streamed while the engine runs. The law: tokens per second <= batch * bandwidth / bytes of the layers; bandwidth is
measured by reading all layers without computing, with the same reader.

Part 4, one node: replicas of the model over two shards each, as in part 1; first with a share of its own in every rank,
then over the store. ``--parts`` runs some of them.
"""

from __future__ import annotations

import atexit
import logging
import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from benchmarks.common import make_parser, report
from benchmarks.peers.weights import make_model_folder
from benchmarks.peers.workload import FULL_SHAPE, Shape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.common import Figure
    from fastserve_ray.weights.store import WeightStore

QUICK_SHAPE = Shape("qwen2-24m", 8192, 512, 8, 1536, 8, 2)
NUM_REPLICAS = 4
NUM_SHARDS = 2
PARTS = ("memory", "nodes", "shards")
SETTINGS: dict[str, Any] = {"max_model_len": 128, "kv_cache_tokens": 256, "max_num_seqs": 16, "num_threads": 1}
STREAM_BATCHES = (1, 8, 16)
STREAM_TOKENS = 6
MIB = 2**20
MIN_STORE = 80 * MIB
"""Ray takes no smaller object store."""


class Replica:
    """A process with an engine; run as a Ray actor."""

    def begin(self) -> None:
        """Import everything, so that it does not count as weights."""
        import psutil
        import torch
        import transformers.models.qwen2.modeling_qwen2  # noqa: F401

        import fastserve_ray.engines.torch.factory
        import fastserve_ray.engines.torch.shards.factory
        import fastserve_ray.engines.torch.shards.stored
        import fastserve_ray.engines.torch.stored  # noqa: F401
        from fastserve_ray.native.library import load_library
        from fastserve_ray.weights.client import WeightClient  # noqa: F401

        load_library()
        torch.set_num_threads(1)
        torch.randn(64, 64) @ torch.randn(64, 64)
        self._process = psutil.Process()
        self._before = self._process.memory_full_info()

    def load(self, folder: str) -> float:
        """Seconds until the engine is there, from the folder."""
        from fastserve_ray.engines.table import open_engine
        from fastserve_ray.spec.serve import EngineSpec

        start = perf_counter()
        self._engine: Any = open_engine(folder, "text-generation", EngineSpec(**SETTINGS))
        return perf_counter() - start

    def read(self, store: WeightStore) -> tuple[float, float]:
        """Seconds until the model is whole over the store's tensors, and until the engine is there."""
        import torch

        from fastserve_ray.engines.torch.factory import build_generate_engine
        from fastserve_ray.engines.torch.stored import assemble
        from fastserve_ray.spec.serve import EngineSpec

        start = perf_counter()
        whole = assemble(store.client().read_all(), torch.device("cpu"))
        ready = perf_counter() - start
        self._engine = build_generate_engine(whole.model, whole.tokenizer, EngineSpec(**SETTINGS), is_prepared=True)
        return ready, perf_counter() - start

    def open_stream(self, store: WeightStore) -> int:
        """Open an engine whose layers are streamed; the bytes of the layers."""
        from fastserve_ray.engines.torch.factory import open_streamed_engine
        from fastserve_ray.engines.torch.stored import ROOT
        from fastserve_ray.spec.serve import EngineSpec

        self._client = store.client()
        outlines = self._client.outlines()
        root = self._client.read(ROOT)
        self._names = sorted(
            (outline.name for outline in outlines if outline.name != ROOT),
            key=lambda name: int(name.rpartition(".")[2]),
        )
        layers = [outline for outline in outlines if outline.name != ROOT]
        self._engine, _ = open_streamed_engine(
            root, layers, lambda name: self._client.read(name).tensors, EngineSpec(**SETTINGS)
        )
        return self._client.num_bytes - root.num_bytes

    def read_layers(self, rounds: int) -> float:
        """Seconds to read all layers once, one ahead, without computing."""
        from fastserve_ray.engines.torch.streamed import LayerStream

        stream = LayerStream(lambda name: self._client.read(name).tensors, self._names)
        stream.take(0)
        start = perf_counter()
        for _ in range(rounds):
            for at in range(len(self._names)):
                stream.take((at + 1) % len(self._names))
        seconds = (perf_counter() - start) / rounds
        stream.close()
        return seconds

    def generate(self, batch: int, num_tokens: int) -> tuple[float, list[tuple[int, ...]]]:
        """Seconds of a decode step, and the tokens."""
        from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams

        sampling = SamplingParams(max_tokens=num_tokens, temperature=0, ignore_eos=True)
        for at in range(batch):
            self._engine.add_request(GenerateRequest(str(at), (at + 5, 7, 11), sampling))
        tokens: dict[str, tuple[int, ...]] = {}
        seconds = []
        while self._engine.has_work():
            start = perf_counter()
            for delta in self._engine.step():
                tokens[delta.request_id] = tokens.get(delta.request_id, ()) + delta.token_ids
            seconds.append(perf_counter() - start)
        decode = sorted(seconds[1:])
        return decode[len(decode) // 2], [tokens[str(at)] for at in range(batch)]

    def gained(self) -> tuple[int, int]:
        """USS and PSS since `begin`, bytes."""
        now = self._process.memory_full_info()
        return now.uss - self._before.uss, now.pss - self._before.pss


@dataclass(frozen=True)
class StoredShare:
    """See `shards.factory.ReadShare`."""

    store: WeightStore

    def __call__(self, collectives: Any, seat: Any, device: Any) -> tuple[Any, Any, bool]:
        from fastserve_ray.engines.torch.shards.stored import assemble_share, belongs_to

        pieces = self.store.client().read_all(lambda name: belongs_to(name, collectives.rank))
        return *assemble_share(pieces, collectives, device), True


class Rank(Replica):
    """A process of a sharded replica. Nobody needs to end its peers: they end with the actors."""

    def lead(self, meeting: str, model: str | StoredShare) -> float:
        """As rank 0; seconds until the engine is there."""
        from fastserve_ray.engines.torch.shards.factory import Seat, open_leading_engine
        from fastserve_ray.spec.serve import EngineSpec

        start = perf_counter()
        spec, seat = EngineSpec(**SETTINGS), Seat.on_one_machine(0, NUM_SHARDS)
        self._engine = open_leading_engine(NUM_SHARDS, meeting, model, spec, peers=self, seat=seat)
        return perf_counter() - start

    def follow(self, rank: int, meeting: str, model: str | StoredShare) -> None:
        from fastserve_ray.engines.torch.shards.factory import Seat, run_shard
        from fastserve_ray.spec.serve import EngineSpec

        run_shard(rank, NUM_SHARDS, meeting, model, EngineSpec(**SETTINGS), seat=Seat.on_one_machine(rank, NUM_SHARDS))

    def explain(self) -> str | None:
        return None

    def close(self) -> None:
        pass

    def kill(self) -> None:
        pass


def replicas(count: int, node_id: str | None = None, kind: type[Replica] = Replica) -> list[Any]:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = None if node_id is None else NodeAffinitySchedulingStrategy(node_id, soft=False)
    actor = ray.remote(kind).options(num_cpus=0, max_concurrency=2, scheduling_strategy=strategy)
    made = [actor.remote() for _ in range(count)]
    ray.get([each.begin.remote() for each in made])
    return made


def end(processes: Sequence[Any]) -> None:
    import ray

    for each in processes:
        ray.kill(each)


def on_one_node(folder: str, model_bytes: int, shards: int) -> list[dict[str, Figure]]:
    """Part 1."""
    import ray

    from fastserve_ray.engines.torch.stored import ModelBuilder
    from fastserve_ray.weights.store import WeightStore

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=int(1.3 * model_bytes) + 100 * MIB, **quiet())
    (alone,) = replicas(1)
    seconds = ray.get(alone.load.remote(folder))
    _, expected = ray.get(alone.generate.remote(2, 8))
    rows = [row("own copy", model_bytes, [ray.get(alone.gained.remote())], None, seconds)]
    end([alone])

    start = perf_counter()
    store = WeightStore.start(ModelBuilder(partial(str, folder), "text-generation"), shards)
    ray.get([server.part.remote() for server in store.servers])
    built = perf_counter() - start
    several = replicas(NUM_REPLICAS)
    times = [ray.get(each.read.remote(store)) for each in several]
    for each in several:
        _, tokens = ray.get(each.generate.remote(2, 8))
        assert tokens == expected, "the store's engine gives other tokens"
    memory = [ray.get(each.gained.remote()) for each in several]
    name = f"{NUM_REPLICAS} over the store"
    rows.append(row(name, model_bytes, memory, max(ready for ready, _ in times), max(whole for _, whole in times)))
    print(f"the store was built in {built:.1f} s by {shards} server(s)")
    ray.shutdown()
    return rows


def over_shards(folder: str, model_bytes: int) -> list[dict[str, Figure]]:
    """Part 4."""
    import ray

    from fastserve_ray.engines.torch.shards.stored import SharesBuilder
    from fastserve_ray.weights.store import WeightStore

    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=int(1.3 * model_bytes) + 100 * MIB, **quiet())
    alone = sharded_replica(folder)
    _, expected = ray.get(alone[0].generate.remote(2, 8))
    memory = [ray.get(each.gained.remote()) for each in alone]
    rows = [row(f"{NUM_SHARDS} shards, own shares", model_bytes, memory, None, None)]
    end(alone)
    store = WeightStore.start(SharesBuilder(partial(str, folder), NUM_SHARDS))
    several = [sharded_replica(StoredShare(store)) for _ in range(2)]
    for leader, *_ in several:
        _, tokens = ray.get(leader.generate.remote(2, 8))
        assert tokens == expected, "the store's shards give other tokens"
    memory = [ray.get(each.gained.remote()) for ranks in several for each in ranks]
    rows.append(row(f"2 x {NUM_SHARDS} shards over the store", model_bytes, memory, None, None))
    ray.shutdown()
    return rows


def sharded_replica(model: str | StoredShare) -> list[Any]:
    """The ranks of one, which is open."""
    import ray

    ranks = replicas(NUM_SHARDS, kind=Rank)
    meeting = (Path(tempfile.mkdtemp(prefix="fsr-")) / "meeting").as_uri()
    for rank in range(1, NUM_SHARDS):
        ranks[rank].follow.remote(rank, meeting, model)
    ray.get(ranks[0].lead.remote(meeting, model))
    return ranks


def row(
    name: str, model_bytes: int, memory: list[tuple[int, int]], ready: float | None, whole: float | None
) -> dict[str, Figure]:
    return {
        "replicas": name,
        "model MiB": model_bytes // MIB,
        "USS gained MiB, most": max(uss for uss, _ in memory) // MIB,
        "of the model": f"{max(uss for uss, _ in memory) / model_bytes:.1%}",
        "PSS gained MiB, sum": sum(pss for _, pss in memory) // MIB,
        "weights ready s": ready,
        "engine ready s": whole,
    }


def on_two_nodes(folder: str, model_bytes: int) -> tuple[list[dict[str, Figure]], list[dict[str, Figure]]]:
    """Parts 2 and 3."""
    import ray
    from ray.cluster_utils import Cluster

    from fastserve_ray.engines.torch.stored import ModelBuilder
    from fastserve_ray.weights.store import WeightStore

    large = int(1.3 * model_bytes) + 100 * MIB
    small = max(MIN_STORE, int(0.3 * model_bytes))
    options = quiet()
    head = {"num_cpus": 0, "object_store_memory": MIN_STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**head, "temp_dir": options.pop("_temp_dir")})
    cluster.add_node(num_cpus=1, object_store_memory=large, resources={"holder": 8})
    reader = cluster.add_node(num_cpus=1, object_store_memory=large)
    narrow = cluster.add_node(num_cpus=1, object_store_memory=small)
    ray.init(address=cluster.address, **options)
    store = WeightStore.start(ModelBuilder(partial(str, folder), "text-generation"), 1, resources={"holder": 1})
    ray.get([server.part.remote() for server in store.servers])

    two = replicas(2, reader.node_id)
    before = created(reader.node_id)
    (first, _), (second, _) = (ray.get(each.read.remote(store)) for each in two)
    arrived = created(reader.node_id) - before
    plain_step = {batch: ray.get(two[0].generate.remote(batch, STREAM_TOKENS)) for batch in STREAM_BATCHES}
    end(two)
    fetched: list[dict[str, Figure]] = [
        {
            "reads": 2,
            "model MiB": model_bytes // MIB,
            "arrived MiB": arrived // MIB,
            "first reader ready s": first,
            "second reader ready s": second,
        }
    ]
    (one,) = replicas(1, narrow.node_id)
    layer_bytes = ray.get(one.open_stream.remote(store))
    streamed: list[dict[str, Figure]] = []
    for batch in STREAM_BATCHES:
        seconds_reading = ray.get(one.read_layers.remote(1))
        seconds, tokens = ray.get(one.generate.remote(batch, STREAM_TOKENS))
        assert tokens == plain_step[batch][1], "the streamed engine gives other tokens"
        streamed.append(
            {
                "batch": batch,
                "layers MiB": layer_bytes // MIB,
                "store MiB": small // MIB,
                "reading GB/s": layer_bytes / seconds_reading / 1e9,
                "step s": seconds,
                "step s, in memory": plain_step[batch][0],
                "tokens/s": batch / seconds,
                "law tokens/s": batch / seconds_reading,
                "of the law": f"{seconds_reading / seconds:.0%}",
            }
        )
    ray.shutdown()
    cluster.shutdown()
    return fetched, streamed


def created(node_id: str) -> int:
    """Bytes of objects made in a node's store so far; see Ray's ``GetNodeStats``."""
    import ray
    from ray._private.internal_api import node_stats

    (node,) = (node for node in ray.nodes() if node["NodeID"] == node_id)
    stats = node_stats(node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False)
    return int(stats.store_stats.cumulative_created_bytes)


def quiet() -> dict[str, Any]:
    folder = tempfile.mkdtemp(prefix="fsr-", dir="/tmp")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return {"log_to_driver": False, "logging_level": logging.ERROR, "_temp_dir": folder}


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--shards", type=int, default=1, help="servers of the store on one node")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="part 1, parts 2 and 3, part 4")
    args = parser.parse_args()
    shape = QUICK_SHAPE if args.quick else FULL_SHAPE
    with tempfile.TemporaryDirectory() as folder:
        make_model_folder(shape, Path(folder))
        model_bytes = (Path(folder) / "model.safetensors").stat().st_size
        if "memory" in args.parts:
            report("memory and time of replicas", on_one_node(folder, model_bytes, args.shards), json_file=args.json)
        if "nodes" in args.parts:
            fetched, streamed = on_two_nodes(folder, model_bytes)
            report("a node without the weights", fetched, json_file=beside(args.json, "fetched"))
            report("layer streaming", streamed, json_file=beside(args.json, "streamed"))
        if "shards" in args.parts:
            sharded = over_shards(folder, model_bytes)
            report("memory of the ranks of sharded replicas", sharded, json_file=beside(args.json, "sharded"))


def beside(file: Path | None, name: str) -> Path | None:
    return None if file is None else file.with_name(f"{file.stem}-{name}{file.suffix}")


if __name__ == "__main__":
    main()
