"""The engine over block tables: its tokens are those of transformers' generate, in padded steps of fixed shapes too."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from fastserve_ray.engines.offline import generate_all
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.engines.torch.kv_cache import BLOCK_SIZE, KvCache, KvOps
from fastserve_ray.engines.torch.paged.forward import DecodeBatch
from fastserve_ray.engines.torch.paged.kernels import DenseKernel
from fastserve_ray.engines.torch.paged.step import PagedCache, PagedLimits
from fastserve_ray.engines.torch.ragged import Span
from fastserve_ray.engines.torch.runner import Runner, StepInput, adopt, forward
from fastserve_ray.errors import EngineError
from fastserve_ray.spec.serve import EngineSpec
from tests.engines.tiny import (
    FAMILIES,
    VOCAB_SIZE,
    build_engine,
    build_model,
    build_tokenizer,
    check_crowded_cache,
    generate,
    greedy,
    random_prompts,
)

if TYPE_CHECKING:
    from fastserve_ray.engines.torch.engine import TorchEngine
    from fastserve_ray.engines.torch.paged.kernels import Blocks
    from fastserve_ray.engines.torch.paged.pages import Queries

PROMPTS = random_prompts(8)


def build_paged(model: Any, **spec: Any) -> TorchEngine:
    return build_generate_engine(model, build_tokenizer(), EngineSpec(**spec), kernel=DenseKernel())


@pytest.mark.parametrize("family", FAMILIES)
def test_tokens_through_preemptions_swaps_and_prefix_hits(family: str) -> None:
    check_crowded_cache(build_paged, family, PROMPTS, 16)


@pytest.mark.parametrize(("max_num_seqs", "max_num_batched_tokens"), [(1, 1), (8, 11), (8, 256)])
def test_padding_does_not_change_tokens(max_num_seqs: int, max_num_batched_tokens: int) -> None:
    model = build_model("mistral")
    expected = [generate(model, prompt, 12) for prompt in PROMPTS]
    engine = build_paged(model, max_num_seqs=max_num_seqs, max_num_batched_tokens=max_num_batched_tokens)
    completions = generate_all(engine, [greedy(at, prompt, 12) for at, prompt in enumerate(PROMPTS)])
    assert [completion.token_ids for completion in completions] == expected


def test_completions_of_one_prompt_share_blocks() -> None:
    model = build_model()
    expected = generate(model, PROMPTS[0], 20)
    (completion, *others) = generate_all(build_paged(model), [greedy("a", PROMPTS[0], 20, n=3)])
    assert {completion.token_ids, *(other.token_ids for other in others)} == {expected}


def test_a_padded_batch_gives_the_logits_of_the_gather_path() -> None:
    """Five rows padded to eight, with stale content from a fuller step before; and only some logits wanted."""
    model = build_model("gemma3_text")
    layers = adopt(model)
    limits = PagedLimits(max_num_seqs=8, max_num_batched_tokens=64, max_model_len=64)
    runners = [Runner(model, layers, 512), Runner(model, layers, 512, paged=(DenseKernel(), limits))]
    prompts, fuller, padded = step_of([(0, 30)] * 8), step_of([(30, 31)] * 8), step_of([(31, 32)] * 5, keep=[0, 1, 4])
    for step in (prompts, fuller, padded):
        gathered, paged = (runner.execute(step) for runner in runners)
        torch.testing.assert_close(paged, gathered)
    assert paged.shape[0] == 3


def step_of(bounds: list[tuple[int, int]], keep: list[int] | None = None) -> StepInput:
    """Made-up tokens of sequences that have 64 slots each, blocks in falling order."""
    spans, row = [], 0
    for at, (start, end) in enumerate(bounds):
        blocks = np.arange(4 * at + 3, 4 * at - 1, -1)
        slots = (blocks[:, None] * BLOCK_SIZE + np.arange(BLOCK_SIZE)).reshape(-1)[:end]
        spans.append(Span(row, start, end - start, slots, is_contiguous=False))
        row += end - start
    return StepInput(
        ids=[3 + (7 * at) % 300 for at in range(row)],
        positions=np.concatenate([np.arange(*bound) for bound in bounds]),
        spans=spans,
        keep=[span.row + span.num_tokens - 1 for span in spans] if keep is None else keep,
        kv=KvOps(),
    )


class ShapesOnly:
    """A kernel that computes nothing, so that what is around it can run without data."""

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
        return query.new_empty((*query.shape[:3], values.shape[2]))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_decode_step_never_looks_at_its_data(family: str) -> None:
    """On tensors without data, where the host can read no number: so a CUDA graph can hold the step."""
    model = build_model(family).to(torch.bfloat16)
    layers = adopt(model)
    limits = PagedLimits(max_num_seqs=4, max_num_batched_tokens=64, max_model_len=64)
    with torch.inference_mode(), FakeTensorMode(allow_non_fake_inputs=True):
        cache = PagedCache(KvCache(layers, 256, model.device), ShapesOnly(), limits)
        batch = DecodeBatch(cache, partial(forward, model), 4)
        assert batch.compute().shape == (4, VOCAB_SIZE)


def test_warming_up_changes_nothing() -> None:
    model = build_model()
    runner = Runner(model, adopt(model), 256, paged=(DenseKernel(), PagedLimits(4, 32, 64)))
    assert runner.paged is not None
    runner.paged.warm_up()
    step = step_of([(0, 30)])
    first = runner.execute(step).clone()
    torch.testing.assert_close(runner.execute(step), first)


def test_a_replay_stands_for_its_batch_size_alone() -> None:
    """Where a graph is, it runs, on inputs that are written before; other sizes and prompts run as they did."""
    model = build_model()
    expected = [generate(model, prompt, 12) for prompt in PROMPTS[:4]]
    engine = build_paged(model, max_num_seqs=4)
    paged = engine._runner.paged
    assert paged is not None
    calls = []

    def replay() -> torch.Tensor:
        calls.append(4)
        return paged.batch(4).compute()

    paged.use_replay(4, replay)
    completions = generate_all(engine, [greedy(at, prompt, 12) for at, prompt in enumerate(PROMPTS[:4])])
    assert [completion.token_ids for completion in completions] == expected
    assert 0 < len(calls) <= 12


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_flex_is_refused_without_a_gpu() -> None:
    with pytest.raises(EngineError, match="needs a GPU"):
        build_engine(attention="flex")
