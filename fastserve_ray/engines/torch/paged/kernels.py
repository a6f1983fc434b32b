"""Attention of queries over the paged cache: one contract, two implementations.

`FlexKernel` compiles torch's flex attention, which loads no other blocks than those listed (Dong et al. 2024, arXiv
2412.05496). `DenseKernel` gathers the listed blocks and is the plain reading of the same lists and masks.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from torch.nn.functional import pad
from torch.nn.functional import scaled_dot_product_attention as sdpa

from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE
from fastserve_ray.engines.torch.paged.pages import QUERY_BLOCK, Queries, mask_function

MIN_HEAD_DIM = 16
"""Smaller heads are less than a tile of the GPU's matrix units; flex attention refuses them."""
NUM_VARIANTS = 256
"""Compiled forms of the two functions at most: batch sizes, times windows, times shapes of layers."""
TILES = {"BLOCK_M": 64, "BLOCK_N": BLOCK_SIZE, "FORCE_USE_FLEX_ATTENTION": True}
"""Of prompt chunks: keys one block of the cache at a time, which tiles must divide; and not the kernel for decoding,
whose tile would have to hold all queries."""
DECODE_TILES = {"BLOCK_N": BLOCK_SIZE}

Blocks = tuple[torch.Tensor, torch.Tensor]
"""What `Queries.visible_blocks` returns."""


class PagedKernel(Protocol):
    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        queries: Queries,
        blocks: Blocks,
        *,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """query (B, heads, R, d), pools (slots, kv heads, d) to (B, heads, R, d). Never changes its arguments.

        The whole cache must be finite: slots of a listed block that a query does not see are multiplied by zero.
        """
        ...


class DenseKernel:
    """Gathers every listed block; for CPUs and for comparison, slow where sequences are long."""

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        queries: Queries,
        blocks: Blocks,
        *,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        counts, listed = blocks[0][:, 0], blocks[1][:, 0, :, : int(blocks[0].max())]
        num_seqs, num_runs, width = listed.shape
        num_rows = query.shape[2]
        slots = (listed[..., None].long() * BLOCK_SIZE + torch.arange(BLOCK_SIZE, device=query.device)).flatten(2)
        rows = torch.arange(num_runs * QUERY_BLOCK, device=query.device).clamp(max=num_rows - 1)
        is_visible = mask_function(queries.table, queries.positions, queries.places, window)
        at_sequence = torch.arange(num_seqs, device=query.device)[:, None, None, None]
        mask = is_visible(at_sequence, at_sequence, rows.view(1, num_runs, -1, 1), slots[:, :, None])
        is_listed = torch.arange(width, device=query.device) < counts[..., None]
        mask &= is_listed.repeat_interleave(BLOCK_SIZE, dim=2)[:, :, None]
        padded = pad(query, (0, 0, 0, num_runs * QUERY_BLOCK - num_rows))
        output = sdpa(
            padded.unflatten(2, (num_runs, -1)).transpose(1, 2).flatten(0, 1),
            keys[slots].flatten(0, 1).transpose(1, 2),
            values[slots].flatten(0, 1).transpose(1, 2),
            attn_mask=mask.flatten(0, 1)[:, None],
            scale=scaling,
            enable_gqa=query.shape[1] != keys.shape[1],
        )
        return output.unflatten(0, (num_seqs, num_runs)).transpose(1, 2).flatten(2, 3)[:, :, :num_rows]


class FlexKernel:
    """Flex attention compiled by inductor, for GPUs; on a CPU it is compiled to C++, which tests use.

    Compiled once for every shape of the query, so callers pad to few of them. Known shapes let the kernel split long
    sequences over the GPU when few rows decode; and with unknown ones torch 2.13's C++ does not compile.
    """

    def __init__(self) -> None:
        self._decode: Any = torch.compile(_attend_decoding, dynamic=False, fullgraph=True)
        self._chunk: Any = torch.compile(_attend_chunk, dynamic=False, fullgraph=True)

    def __call__(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        queries: Queries,
        blocks: Blocks,
        *,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        compiled = self._decode if query.shape[2] == 1 else self._chunk
        tensors = (query, keys, values, queries.table, queries.positions, queries.places, *blocks)
        # A form too many would be an error, not a silent fall back to uncompiled attention over the whole cache.
        with torch._dynamo.config.patch(recompile_limit=NUM_VARIANTS, accumulated_recompile_limit=4 * NUM_VARIANTS):
            output: torch.Tensor = compiled(*tensors, scaling=scaling, window=window)
        return output


def _attend_decoding(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
    return _attend(tensors, DECODE_TILES, **options)


def _attend_chunk(*tensors: torch.Tensor, **options: Any) -> torch.Tensor:
    return _attend(tensors, TILES, **options)


def _attend(
    tensors: tuple[torch.Tensor, ...], tiles: dict[str, Any], *, scaling: float | None, window: int | None
) -> torch.Tensor:
    query, keys, values, table, positions, places, counts, listed = tensors
    mask = BlockMask.from_kv_blocks(
        counts,
        listed,
        BLOCK_SIZE=(QUERY_BLOCK, BLOCK_SIZE),
        mask_mod=mask_function(table, positions, places, window),
        seq_lengths=(query.shape[2], keys.shape[0]),
        compute_q_blocks=False,
    )
    output: torch.Tensor = flex_attention(
        query,
        keys.transpose(0, 1)[None],
        values.transpose(0, 1)[None],
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
        kernel_options=tiles if query.is_cuda else {},
    )
    return output
