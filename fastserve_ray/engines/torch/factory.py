"""Opens a model folder in the torch engine of its task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import psutil
import torch

from fastserve_ray.engines.torch.block_pool import BlockPool
from fastserve_ray.engines.torch.classifier import TorchClassifier
from fastserve_ray.engines.torch.embedder import TorchEmbedder
from fastserve_ray.engines.torch.engine import TorchEngine
from fastserve_ray.engines.torch.fused import fuse_layers
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, LayerShape
from fastserve_ray.engines.torch.limits import choose_max_model_len
from fastserve_ray.engines.torch.linears import prepare_linears, quantize_output_layer
from fastserve_ray.engines.torch.paged.choose import choose_kernel
from fastserve_ray.engines.torch.paged.prepare import prepare_paged
from fastserve_ray.engines.torch.paged.step import PagedLimits
from fastserve_ray.engines.torch.policies import make_policy, needs_profile
from fastserve_ray.engines.torch.probe import check_logits, reference_logits, refusing
from fastserve_ray.engines.torch.profile import NOT_MEASURED
from fastserve_ray.engines.torch.runner import Runner, adopt, measure_profile
from fastserve_ray.engines.torch.scheduler import Scheduler
from fastserve_ray.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from fastserve_ray.engines.protocol import AnyEngine, GenerateEngine
    from fastserve_ray.engines.torch.paged.kernels import PagedKernel
    from fastserve_ray.engines.torch.streamed import LayerStream, ReadLayer
    from fastserve_ray.models.pieces import Outline, Piece
    from fastserve_ray.spec.model import TaskName
    from fastserve_ray.spec.serve import EngineSpec

KV_MEMORY_FRACTION = 0.5
"""Of the memory that is free, what the KV cache may take when ``kv_cache_tokens`` is not set; the rest is for
activations and for whoever else runs on the machine."""


def open_torch_engine(folder: str | Path, task: TaskName, spec: EngineSpec) -> AnyEngine:
    """See `table.open_engine`. Sets torch's threads for the whole process when ``spec.num_threads`` is given."""
    from fastserve_ray.models.loading import load_pretrained
    from fastserve_ray.models.pooling import Pooling

    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    device = choose_device(spec.device)
    loaded = load_pretrained(folder, task, dtype=spec.dtype)
    loaded.model.to(device)
    if task == "text-classification":
        return TorchClassifier(loaded.model, loaded.tokenizer, spec)
    if task == "text-embedding":
        return TorchEmbedder(loaded.model, loaded.tokenizer, loaded.pooling or Pooling(), spec)
    return build_generate_engine(loaded.model, loaded.tokenizer, spec)


def open_stored_engine(pieces: Sequence[Piece], task: TaskName, spec: EngineSpec) -> AnyEngine:
    """The engine over the pieces of a `stored.ModelBuilder`, which a CPU reads in place.

    Raises:
        EngineError: the pieces are not for this processor or device, or as `open_torch_engine`.
    """
    from fastserve_ray.engines.torch.stored import assemble
    from fastserve_ray.models.pooling import Pooling

    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    whole = assemble(pieces, choose_device(spec.device))
    if task == "text-classification":
        return TorchClassifier(whole.model, whole.tokenizer, spec)
    if task == "text-embedding":
        return TorchEmbedder(whole.model, whole.tokenizer, whole.pooling or Pooling(), spec)
    return build_generate_engine(whole.model, whole.tokenizer, spec, is_prepared=True)


def open_streamed_engine(
    root: Piece, layers: Sequence[Outline], read: ReadLayer, spec: EngineSpec
) -> tuple[GenerateEngine, LayerStream]:
    """A generate engine on the CPU whose layers' tensors come while it runs; see `streamed`.

    Returns:
        the engine, and the stream to close after it.

    Raises:
        EngineError: as `open_stored_engine`, or the model's layers cannot be streamed.
    """
    from fastserve_ray.engines.torch.stored import assemble_streamed

    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    model, tokenizer, stream = assemble_streamed(root, layers, read)
    return build_generate_engine(model, tokenizer, spec, is_prepared=True), stream


def choose_device(name: Literal["auto", "cpu", "cuda"]) -> torch.device:
    """Raises:
    EngineError: "cuda" where there is no GPU that torch can use.
    """
    has_gpu = torch.cuda.is_available()
    if name == "cuda" and not has_gpu:
        raise EngineError(
            "there is no GPU that torch can use",
            value=name,
            allowed="auto, cpu",
            key="serve.engine.device",
            hint="give the replica a GPU (serve.resources_per_replica.GPU) and install a CUDA build of torch",
        )
    return torch.device("cuda" if has_gpu and name != "cpu" else "cpu")


def build_generate_engine(
    model: Any, tokenizer: Any, spec: EngineSpec, *, kernel: PagedKernel | None = None, is_prepared: bool = False
) -> TorchEngine:
    """An engine over a causal LM of transformers, which it takes over: its attention is replaced.

    Args:
        kernel: of attention over block tables; default: what ``spec.attention`` says. Layers are not fused then.
        is_prepared: the model's linear layers are as the engine wants them, and its weights are not to be touched.

    Raises:
        EngineError: the model does not fit; the message says why.
    """
    model.eval()
    max_model_len = choose_max_model_len(model.config, spec.max_model_len)
    if spec.int8_output_layer and not is_prepared:
        quantize_output_layer(model)
    expected = reference_logits(model)
    with refusing(model):
        layers = adopt(model)
        if not is_prepared:
            prepare_linears(model)
        if kernel is None:
            fuse_layers(model, layers)
        check_logits(model, layers, expected)
    kernel = kernel or choose_kernel(model, layers, spec, expected)
    pool = make_block_pool(spec, layers, max_model_len, free_memory(model.device))
    host = BlockPool(spec.kv_host_tokens // BLOCK_SIZE, BLOCK_SIZE) if spec.kv_host_tokens >= BLOCK_SIZE else None
    runner = Runner(
        model,
        layers,
        pool.num_blocks * BLOCK_SIZE,
        0 if host is None else host.num_blocks * BLOCK_SIZE,
        paged=None
        if kernel is None
        else (kernel, PagedLimits(spec.max_num_seqs, spec.max_num_batched_tokens, max_model_len)),
    )
    if model.device.type == "cuda":
        prepare_paged(runner, model.device, spec)
    return assemble_engine(model, tokenizer, spec, runner=runner, pool=pool, host=host, max_model_len=max_model_len)


def assemble_engine(
    model: Any,
    tokenizer: Any,
    spec: EngineSpec,
    *,
    runner: Runner,
    pool: BlockPool,
    host: BlockPool | None,
    max_model_len: int,
) -> TorchEngine:
    """Everything around a runner: policy, scheduler, sampling, text."""
    longest = min(spec.max_num_batched_tokens, max_model_len)
    profile = measure_profile(runner, longest) if needs_profile(spec.scheduler) else NOT_MEASURED
    scheduler = Scheduler(
        make_policy(spec.scheduler, profile),
        pool,
        host,
        max_num_seqs=spec.max_num_seqs,
        max_num_batched_tokens=spec.max_num_batched_tokens,
        shares_prefixes=spec.prefix_caching,
    )
    return TorchEngine(
        model,
        tokenizer,
        scheduler=scheduler,
        runner=runner,
        max_model_len=max_model_len,
        max_num_waiting=spec.max_num_waiting,
    )


def free_memory(device: torch.device) -> int:
    """Bytes that nobody uses on ``device``."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def make_block_pool(spec: EngineSpec, layers: list[LayerShape], max_model_len: int, free_bytes: int) -> BlockPool:
    """As many blocks as the spec says, or as all sequences could need, capped by the memory that is free.

    Args:
        free_bytes: memory that is free for this model.

    Raises:
        EngineError: they cannot hold one request of ``max_model_len``.
    """
    blocks_of_longest = -(-max_model_len // BLOCK_SIZE)
    if spec.kv_cache_tokens is not None:
        num_blocks = spec.kv_cache_tokens // BLOCK_SIZE
    else:
        bytes_per_block = BLOCK_SIZE * sum(layer.bytes_per_token for layer in layers)
        affordable = int(free_bytes * KV_MEMORY_FRACTION) // bytes_per_block
        num_blocks = min(spec.max_num_seqs * blocks_of_longest, affordable)
    if num_blocks < blocks_of_longest:
        is_chosen = spec.kv_cache_tokens is not None
        raise EngineError(
            "the KV cache cannot hold one request of max_model_len",
            value=f"{num_blocks * BLOCK_SIZE} tokens" + ("" if is_chosen else " in the memory that is free"),
            allowed=f"at least {blocks_of_longest * BLOCK_SIZE} tokens, in blocks of {BLOCK_SIZE}",
            key="serve.engine.kv_cache_tokens" if is_chosen else "serve.engine.max_model_len",
            hint="make the cache larger or serve.engine.max_model_len smaller",
        )
    return BlockPool(num_blocks, BLOCK_SIZE)
