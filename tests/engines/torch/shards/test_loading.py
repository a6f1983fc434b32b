"""A rank reads its share of a folder, whatever the folder's age, files and number formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastserve_ray.compress.quantize import quantize_model
from fastserve_ray.engines.torch.shards.loading import load_share
from fastserve_ray.errors import EngineError, ModelError
from fastserve_ray.models.compressed import save_compressed
from fastserve_ray.models.loading import load_pretrained
from fastserve_ray.spec.compress import QuantizeStep
from tests.engines.tiny import build_model, build_tokenizer
from tests.engines.torch.shards.ranks import logits_over_threads, save

if TYPE_CHECKING:
    from pathlib import Path

    from fastserve_ray.engines.torch.shards.collectives import Collectives

IDS = torch.tensor([[5, 9, 300, 77, 20, 11, 3]])
WEIGHTS = "model.safetensors"


class Alone:
    """A rank that loads and never speaks."""

    def __init__(self, rank: int, num_shards: int) -> None:
        self.rank = rank
        self.num_shards = num_shards


def load(folder: Path, rank: int = 0, num_shards: int = 2, **settings: Any) -> Any:
    alone: Collectives = Alone(rank, num_shards)  # type: ignore[assignment]
    return load_share(folder, alone, **settings)[0]


def reference(folder: Path) -> torch.Tensor:
    """(1, T, vocabulary) by the whole model."""
    with torch.inference_mode():
        logits: torch.Tensor = load_pretrained(folder, "text-generation").model(input_ids=IDS, use_cache=False).logits
    return logits


def num_bytes(model: Any) -> int:
    return sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def test_a_rank_holds_its_share_in_memory(tmp_path: Path) -> None:
    model = build_model("llama", tie_word_embeddings=False)
    folder = save(model, tmp_path)
    for rank in range(4):
        share = load(folder, rank, 4)
        assert not any(tensor.is_meta for tensor in share.state_dict().values())
        assert num_bytes(share) < 0.3 * num_bytes(model)  # two key and value heads are held twice


def test_tied_embeddings_are_one_tensor(tmp_path: Path) -> None:
    share = load(save(build_model("llama", tie_word_embeddings=True), tmp_path))
    assert share.lm_head.head.weight is share.model.embed_tokens.embedding.weight


def test_two_tensors_that_the_config_calls_tied_stay_two(tmp_path: Path) -> None:
    """As transformers has it: what the files hold counts."""
    folder = save(build_model("llama", tie_word_embeddings=True), tmp_path)
    tensors = load_file(folder / WEIGHTS)
    tensors["lm_head.weight"] = -tensors["model.embed_tokens.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    share = load(folder)
    torch.testing.assert_close(share.lm_head.head.weight, -share.model.embed_tokens.embedding.weight)


def test_weights_in_several_files(tmp_path: Path) -> None:
    model = build_model("qwen2")
    folder = save(model, tmp_path)
    (folder / WEIGHTS).unlink()
    model.save_pretrained(folder, max_shard_size="100KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    torch.testing.assert_close(logits_over_threads(folder, 2, IDS), reference(folder), atol=1e-4, rtol=1e-4)


def test_names_without_the_base_prefix(tmp_path: Path) -> None:
    """As in the hub's gpt2: ``h.0.attn…`` where the causal LM has ``transformer.h.0.attn…``."""
    folder = save(build_model("gpt2"), tmp_path)
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in load_file(folder / WEIGHTS).items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    torch.testing.assert_close(logits_over_threads(folder, 2, IDS), reference(folder), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("vocab_size", [385, 391])
def test_a_vocabulary_that_does_not_divide(tmp_path: Path, vocab_size: int) -> None:
    folder = save(build_model("llama", vocab_size=vocab_size, intermediate_size=99), tmp_path)
    logits = logits_over_threads(folder, 4, IDS)
    assert logits.shape[-1] == vocab_size
    torch.testing.assert_close(logits, reference(folder), atol=1e-4, rtol=1e-4)


def test_number_formats(tmp_path: Path) -> None:
    folder = save(build_model("gemma").to(torch.bfloat16), tmp_path)
    assert load(folder).dtype == torch.bfloat16
    assert load(folder, dtype="float32").dtype == torch.float32
    want = reference(folder)
    assert (logits_over_threads(folder, 2, IDS) - want).abs().max() < 0.05 * want.abs().max()


@pytest.mark.parametrize("scheme", ["int8-dynamic", "int8-weight-only"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
def test_int8_layers(family: str, scheme: str, tmp_path: Path) -> None:
    """Dynamic: each rank scales its own part of a row, so the results differ by the rounding of activations."""
    model = build_model(family)
    quantize_model(model, QuantizeStep(kind="quantize", scheme=scheme))  # type: ignore[arg-type]
    save_compressed(model, build_tokenizer(), tmp_path, scheme=scheme)
    want = reference(tmp_path)
    assert (logits_over_threads(tmp_path, 2, IDS) - want).abs().max() < 0.05 * want.abs().max()
    assert num_bytes(load(tmp_path)) < 0.6 * num_bytes(model)


def test_missing_weights_are_named(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 are missing, for example model\.layers\.1\.mlp\.up_proj\.weight"):
        load(folder)


def test_pickled_weights_are_refused_with_the_way_out(tmp_path: Path) -> None:
    folder = save(build_model("llama"), tmp_path)
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be read in shards") as refusal:
        load(folder)
    assert "save_pretrained" in str(refusal.value)


def test_a_family_without_a_plan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="no plan for shards"):
        load(save(build_model("mixtral"), tmp_path))
