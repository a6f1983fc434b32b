"""Opens a model folder as an engine over several ranks.

`open_sharded_engine` does it all on one machine. Where something else hosts the ranks (actors, one a node), it calls
`run_shard` on all but the first and `open_leading_engine` there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch.distributed import TCPStore, rendezvous

from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.factory import assemble_engine, choose_device, free_memory, make_block_pool
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, LayerShape
from fastserve_ray.engines.torch.limits import choose_max_model_len
from fastserve_ray.engines.torch.linears import prepare_linears
from fastserve_ray.engines.torch.probe import check_logits, reference_logits, refusing
from fastserve_ray.engines.torch.runner import Runner, adopt
from fastserve_ray.engines.torch.shards.collectives import JOIN_S, Collectives, connect
from fastserve_ray.engines.torch.shards.loading import load_share, read_model_config
from fastserve_ray.engines.torch.shards.plan import plan_for, share_of
from fastserve_ray.engines.torch.shards.processes import LOOPBACK, ShardProcesses
from fastserve_ray.engines.torch.shards.runner import LeadingRunner, Peers, follow
from fastserve_ray.engines.torch.shards.wire import pack_numbers, unpack_numbers
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.engine import TorchEngine
    from fastserve_ray.spec.serve import EngineSpec

TIMEOUT_S = 300.0
"""What a layer waits for another rank at most. All ranks compute the same amount, so only a rank that hangs is so
late; one that dies is noticed at once."""
START_S = 180.0
"""What a process may take to import torch and transformers."""


def open_sharded_engine(
    folder: str | Path, spec: EngineSpec, *, num_shards: int, timeout_s: float = TIMEOUT_S, start_s: float = START_S
) -> TorchEngine:
    """The causal LM in ``folder`` over ``num_shards`` processes of this machine; this one is rank 0.

    Closing the engine ends the processes; they also end when this process does. Sets torch's threads for this process:
    ``spec.num_threads`` or its share of the present number, since ranks that contend for cores wait for one another.

    Raises:
        EngineError: the family has no plan, the heads cannot be shared out evenly, or a process did not start.
        ModelError: the folder cannot be read.
    """
    check_shards(folder, spec, num_shards)
    num_threads = spec.num_threads or max(1, torch.get_num_threads() // num_shards)
    spec = type(spec).model_validate({**spec.model_dump(), "num_threads": num_threads})
    processes = ShardProcesses(folder, spec, num_shards, timeout_s=timeout_s, start_s=start_s)
    engine: TorchEngine | None = None
    try:
        seat = Seat.on_one_machine(0, num_shards)
        engine = open_leading_engine(
            num_shards, processes.init_method, folder, spec, peers=processes, seat=seat, timeout_s=timeout_s
        )
    except EngineError as error:
        # rank 0 only sees that a rank is gone; the rank itself says why
        raise (processes.error() or error) from error
    finally:
        if engine is None:
            processes.kill()
    return engine


@dataclass(frozen=True)
class Seat:
    """Where a rank sits."""

    host: str
    """An address of its machine that the other ranks reach."""
    gpu: int = 0
    """Its own among the GPUs that its process sees."""
    ranks_here: int = 1
    """How many ranks of the model share the machine's memory."""

    @classmethod
    def on_one_machine(cls, rank: int, num_shards: int) -> Seat:
        """Of ranks that all run here and see all its GPUs."""
        return cls(LOOPBACK, gpu=rank, ranks_here=num_shards)


class ReadShare(Protocol):
    """Gives a rank its share from elsewhere than a folder. Sent to the ranks by pickle."""

    def __call__(self, collectives: Collectives, seat: Seat, device: torch.device) -> tuple[Any, Any, bool]:
        """The model on ``device``, the tokenizer, and whether the linear layers are as the engine wants them already.

        Raises:
            FastServeError: it cannot; the message says why.
        """
        ...


def open_meeting(host: str, num_shards: int) -> tuple[Any, str]:
    """A store at which the ranks meet, on a free port of rank 0's machine; and the others' way to it, as
    ``init_method``."""
    store = TCPStore(host, 0, num_shards, is_master=True, timeout=timedelta(seconds=JOIN_S), wait_for_workers=False)
    return store, f"tcp://{f'[{host}]' if ':' in host else host}:{store.port}"


def open_leading_engine(
    num_shards: int,
    meeting: Any,
    model: str | Path | ReadShare,
    spec: EngineSpec,
    *,
    peers: Peers,
    seat: Seat,
    timeout_s: float = TIMEOUT_S,
) -> TorchEngine:
    """Rank 0's part: the engine, whose steps the other ranks follow.

    Args:
        meeting: where the ranks meet: the store of `open_meeting`, or an address as torch.distributed has it:
            ``tcp://host:port`` of rank 0's machine, or ``file:///path`` of a file that does not exist yet.
        model: its folder, or what gives this rank its share.
        peers: who hosts the other ranks.
        timeout_s: see `collectives.connect`.

    Raises:
        EngineError, ModelError: as `open_sharded_engine`.
    """
    store = _store_at(meeting, 0, num_shards) if isinstance(meeting, str) else meeting
    ready = _prepare(0, num_shards, store, model, spec, seat=seat, timeout_s=timeout_s)
    pool = make_block_pool(spec, ready.layers, ready.max_model_len, ready.free_bytes)
    host_blocks = spec.kv_host_tokens // BLOCK_SIZE
    num_slots, num_host_slots = pool.num_blocks * BLOCK_SIZE, host_blocks * BLOCK_SIZE
    ready.collectives.send(pack_numbers([num_slots, num_host_slots]))
    runner = LeadingRunner(
        ready.model, ready.layers, num_slots, num_host_slots, collectives=ready.collectives, peers=peers
    )
    return assemble_engine(
        ready.model,
        ready.tokenizer,
        spec,
        runner=runner,
        pool=pool,
        host=BlockPool(host_blocks, BLOCK_SIZE) if host_blocks else None,
        max_model_len=ready.max_model_len,
    )


def run_shard(
    rank: int,
    num_shards: int,
    init_method: str,
    model: str | Path | ReadShare,
    spec: EngineSpec,
    *,
    seat: Seat,
    timeout_s: float = TIMEOUT_S,
) -> None:
    """The part of any other rank: load a share, and follow rank 0 until it closes its engine.

    Args:
        init_method: where the ranks meet; see `open_leading_engine`.

    Raises:
        EngineError: another rank is gone.
        ModelError: the folder cannot be read.
    """
    store = _store_at(init_method, rank, num_shards)
    ready = _prepare(rank, num_shards, store, model, spec, seat=seat, timeout_s=timeout_s)
    num_slots, num_host_slots = unpack_numbers(ready.collectives.receive())
    follow(Runner(ready.model, ready.layers, num_slots, num_host_slots), ready.collectives)


def check_shards(folder: str | Path, spec: EngineSpec, num_shards: int) -> None:
    """Refuse what cannot be cut, by the configuration alone.

    Raises:
        EngineError: the family has no plan, the heads cannot be shared out evenly, or paged attention was asked for.
        ModelError: there is no such folder.
    """
    if spec.attention == "flex":
        raise EngineError(
            "shards gather, and have no flex attention",
            value=spec.attention,
            allowed="auto, gather",
            key="serve.engine.attention",
        )
    config = read_model_config(Path(folder))
    plan_for(config.model_type)
    share_of(config, 0, num_shards)


def shard_device(device: torch.device, place: int, num_gpus: int) -> torch.device:
    """The device of the rank that is number ``place`` on its machine: the CPU, or a GPU of its own.

    Raises:
        EngineError: there are not enough GPUs.
    """
    if device.type != "cuda":
        return device
    if place >= num_gpus:
        raise EngineError(
            "each shard needs a GPU of its own",
            value=f"shard {place} with {num_gpus} GPUs on this machine",
            allowed=f"at most {num_gpus} shards here",
            key="serve.engine.device",
            hint="use fewer shards, or device: cpu",
        )
    return torch.device("cuda", place)


@dataclass(frozen=True)
class ShareOfFolder:
    """Reads a rank's share from files; see `ReadShare`."""

    folder: str | Path
    dtype: str

    def __call__(self, collectives: Collectives, seat: Seat, device: torch.device) -> tuple[Any, Any, bool]:
        """
        Raises:
            ModelError, EngineError: as `load_share`.
        """
        model, tokenizer = load_share(self.folder, collectives, dtype=self.dtype)
        return model.to(device), tokenizer, False


@dataclass(frozen=True)
class _Ready:
    """A rank that has loaded its share."""

    collectives: Collectives
    model: Any
    tokenizer: Any
    layers: list[LayerShape]
    max_model_len: int
    free_bytes: int
    """Memory for the rank that has least."""


def _store_at(init_method: str, rank: int, num_shards: int) -> Any:
    store, _, _ = next(rendezvous(init_method, rank, num_shards, timeout=timedelta(seconds=JOIN_S)))
    return store


def _prepare(
    rank: int,
    num_shards: int,
    store: Any,
    source: str | Path | ReadShare,
    spec: EngineSpec,
    *,
    seat: Seat,
    timeout_s: float,
) -> _Ready:
    """What all ranks do alike, in step: connect, load, and check that the model computes what it should."""
    if spec.int8_output_layer:
        raise EngineError(
            "a sharded engine holds its output layer as it is stored",
            value=True,
            allowed="false",
            key="serve.engine.int8_output_layer",
        )
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    device = shard_device(choose_device(spec.device), seat.gpu, torch.cuda.device_count())
    collectives = connect(store, rank, num_shards, host=seat.host, timeout_s=timeout_s, device=device)
    read = source if callable(source) else ShareOfFolder(source, spec.dtype)
    model, tokenizer, is_prepared = read(collectives, seat, device)
    collectives.meet()
    expected = reference_logits(model)
    with refusing(model):
        layers = adopt(model)
        if not is_prepared:
            prepare_linears(model)
        check_logits(model, layers, expected)
    free = free_memory(device) // (1 if device.type == "cuda" else seat.ranks_here)
    return _Ready(
        collectives,
        model,
        tokenizer,
        layers,
        choose_max_model_len(model.config, spec.max_model_len),
        collectives.smallest(free),
    )
