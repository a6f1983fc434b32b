"""Small random models and a small tokenizer for the tests of the engines."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
)

from fastserve_ray.engines.protocol import GenerateRequest, SamplingParams
from fastserve_ray.engines.torch.factory import build_generate_engine
from fastserve_ray.spec.serve import EngineSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastserve_ray.engines.torch.engine import TorchEngine

VOCAB_SIZE = 384
TEXT = ["the cat sat on the mat and the dog barked at the cat", "grüße aus köln, 東京 und 🙂🙃"] * 4
SHAPE = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "initializer_range": 0.3,
}
"""Weights are large, so that attention matters and the most probable tokens are far apart."""
GROUPED = {"intermediate_size": 96, "num_key_value_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GROUPED,
    "qwen2": GROUPED,
    "qwen3": {**GROUPED, "head_dim": 16},
    "mistral": {**GROUPED, "sliding_window": 12},
    "gemma": {"intermediate_size": 96, "num_key_value_heads": 1, "head_dim": 16},
    "gemma3_text": {
        "intermediate_size": 96,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "sliding_window": 12,
        "layer_types": ["sliding_attention", "full_attention"],
        "tie_word_embeddings": False,
    },
    "phi": {"intermediate_size": 96},
    "gpt2": {},
    "gpt_neox": {"intermediate_size": 96},
    "opt": {"ffn_dim": 96, "word_embed_proj_dim": 64},
    "mixtral": GROUPED,
}


def build_model(family: str = "llama", *, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SHAPE, **FAMILIES.get(family, {}), **changes})
    return AutoModelForCausalLM.from_config(config).eval()


def build_classifier(family: str, *, seed: int = 0, **changes: Any) -> Any:
    torch.manual_seed(seed)
    config = AutoConfig.for_model(family, **{**SHAPE, "intermediate_size": 96, **changes})
    return AutoModelForSequenceClassification.from_config(config).eval()


def build_encoder(family: str = "bert", **changes: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SHAPE, "intermediate_size": 96, **changes})
    return AutoModel.from_config(config).eval()


@lru_cache
def build_tokenizer() -> Any:
    """Byte-level BPE, so that any text comes back and characters span tokens; ids 0 to 2 are special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=128
    )


def build_engine(model: Any | None = None, **spec: Any) -> TorchEngine:
    return build_generate_engine(model if model is not None else build_model(), build_tokenizer(), EngineSpec(**spec))


def random_prompts(count: int, *, seed: int = 0, longest: int = 40) -> list[tuple[int, ...]]:
    draw = random.Random(seed)
    return [tuple(draw.randrange(3, VOCAB_SIZE) for _ in range(draw.randint(1, longest))) for _ in range(count)]


def greedy(request_id: object, prompt: tuple[int, ...], max_tokens: int = 20, **sampling: Any) -> GenerateRequest:
    return GenerateRequest(str(request_id), prompt, SamplingParams(max_tokens=max_tokens, temperature=0, **sampling))


def generate(model: Any, prompt: tuple[int, ...], max_tokens: int = 20) -> tuple[int, ...]:
    """What transformers' ``generate`` adds to ``prompt``; call it before an engine takes the model over."""
    ids = torch.tensor([prompt])
    output = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=max_tokens)
    return tuple(output[0, len(prompt) :].tolist())


def check_crowded_cache(
    build: Callable[..., TorchEngine], family: str, prompts: Sequence[tuple[int, ...]], max_tokens: int
) -> None:
    """Requests of rising priority with the same beginning, in a cache that holds a third of them, get the tokens that
    ``generate`` gives each alone."""
    model = build_model(family)
    beginning = random_prompts(1, seed=3, longest=1)[0] * 17
    long = [beginning + prompt for prompt in prompts]
    expected = [generate(model, prompt, max_tokens) for prompt in long]
    engine = build(
        model, max_num_seqs=3, max_num_batched_tokens=24, kv_cache_tokens=128, kv_host_tokens=96, max_model_len=96
    )
    assert generate_rising(engine, long, max_tokens) == expected
    stats = engine.stats()
    assert min(stats.num_preemptions, stats.num_swapped_blocks, stats.num_dropped_tokens, stats.prefix_hit_tokens) > 0


def generate_rising(engine: TorchEngine, prompts: Sequence[tuple[int, ...]], max_tokens: int) -> list[tuple[int, ...]]:
    """Greedy tokens of prompts that come three steps apart, each of a higher priority than those before."""
    tokens: dict[str, list[int]] = {str(at): [] for at in range(len(prompts))}
    for at, prompt in enumerate(prompts):
        engine.add_request(replace(greedy(at, prompt, max_tokens), priority=at))
        for _ in range(3):
            for delta in engine.step():
                tokens[delta.request_id] += delta.token_ids
    while engine.has_work():
        for delta in engine.step():
            tokens[delta.request_id] += delta.token_ids
    return [tuple(got) for got in tokens.values()]
