"""Models and tokenizers from folders and configs, and what is said when they do not load."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, PreTrainedTokenizerFast

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import build_from_config, load_pretrained, load_tokenizer, read_config, save_model
from tests.training.tiny import CONFIGS, make_tokenizer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As sentence-transformers writes them: a BERT without any head."""
    folder = tmp_path_factory.mktemp("encoder")
    torch.manual_seed(0)
    settings = {key: value for key, value in CONFIGS["bert"].items() if key != "model_type"}
    AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=64, **settings)).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A GPT-2 with tied embeddings, saved by the package."""
    folder = tmp_path_factory.mktemp("generator")
    tokenizer = make_tokenizer()
    save_model(build_from_config(CONFIGS["gpt2"], "text-generation", tokenizer, seed=3), tokenizer, folder)
    return folder


def weights(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = model.state_dict()
    return state


def test_a_base_encoder_gets_a_head_drawn_from_the_seed(encoder: Path) -> None:
    def head(seed: int) -> torch.Tensor:
        loaded = load_pretrained(encoder, "text-classification", label_names=("bad", "good", "so-so"), seed=seed)
        return weights(loaded.model)["classifier.weight"]

    assert head(1).shape == (3, 32)
    assert torch.equal(head(1), head(1))
    assert not torch.equal(head(1), head(2))
    loaded = load_pretrained(encoder, "text-classification", label_names=("bad", "good", "so-so"))
    assert loaded.model.config.id2label == {0: "bad", 1: "good", 2: "so-so"}
    body = AutoModel.from_pretrained(encoder).state_dict()
    assert all(torch.equal(weights(loaded.model)[f"bert.{name}"], weight) for name, weight in body.items())
    assert not loaded.model.training


def test_a_seed_of_a_head_is_not_the_seed_of_what_comes_after(encoder: Path) -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    load_pretrained(encoder, "text-classification", num_labels=2)
    assert torch.equal(torch.rand(1), expected)


def test_a_head_for_other_classes_is_replaced(encoder: Path, tmp_path: Path) -> None:
    loaded = load_pretrained(encoder, "text-classification", num_labels=2)
    save_model(loaded.model, loaded.tokenizer, tmp_path)
    kept = load_pretrained(tmp_path, "text-classification", label_names=("no", "yes"), seed=5)
    assert torch.equal(weights(kept.model)["classifier.weight"], weights(loaded.model)["classifier.weight"])
    changed = load_pretrained(tmp_path, "text-classification", label_names=("a", "b", "c"))
    assert weights(changed.model)["classifier.weight"].shape == (3, 32)


def test_tied_weights_survive(generator: Path) -> None:
    loaded = load_pretrained(generator, "text-generation")
    again = AutoModelForCausalLM.from_pretrained(generator)
    assert loaded.model.lm_head.weight is loaded.model.transformer.wte.weight
    assert all(torch.equal(weights(again)[name], weight) for name, weight in weights(loaded.model).items())


def test_a_given_state_is_saved_and_left_alone(generator: Path, tmp_path: Path) -> None:
    loaded = load_pretrained(generator, "text-generation")
    state = {name: weight + 1 for name, weight in weights(loaded.model).items()}
    names = set(state)
    save_model(loaded.model, loaded.tokenizer, tmp_path, state_dict=state)
    assert set(state) == names
    saved = weights(load_pretrained(tmp_path, "text-generation").model)
    assert all(torch.equal(saved[name], weight) for name, weight in state.items())


def test_a_generator_may_become_a_classifier(generator: Path) -> None:
    loaded = load_pretrained(generator, "text-classification", num_labels=2)
    assert loaded.model.config.pad_token_id == 0


def test_an_encoder_is_no_generator(encoder: Path) -> None:
    with pytest.raises(ModelError, match="not of a text-generation model") as caught:
        load_pretrained(encoder, "text-generation")
    assert "model.task" in str(caught.value)


def test_the_same_seed_builds_the_same_model() -> None:
    def build(seed: int) -> torch.Tensor:
        model = build_from_config(CONFIGS["llama"], "text-generation", make_tokenizer(), seed=seed)
        return weights(model)["model.embed_tokens.weight"]

    assert torch.equal(build(1), build(1))
    assert not torch.equal(build(1), build(2))
    assert build(1).shape == (64, 32)


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"model_type": "llama7"}, "model.config.model_type", "did you mean 'llama'?"),
        ({"model_type": None}, "model.config.model_type", "unknown model type"),
        ({"hidden_sizes": 32}, "model.config.hidden_sizes", "did you mean 'hidden_size'?"),
        ({"hidden_size": "wide"}, "model.config", "expected int"),
        ({"hidden_size": 30}, "model.config", "not a multiple"),
        ({"vocab_size": 10}, "model.config.vocab_size", "64 or more"),
        ({"model_type": "vit", "hidden_size": 32}, "model.config", "vit"),
    ],
)
def test_a_wrong_config_says_what_to_change(change: dict[str, Any], key: str, words: str) -> None:
    config = {"model_type": "vit", "hidden_size": 32} if change.get("model_type") == "vit" else CONFIGS["llama"]
    with pytest.raises(ModelError) as caught:
        build_from_config({**config, **change}, "text-generation", make_tokenizer(), seed=0)
    assert caught.value.key == key
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["/no/such/folder", "./no/such/folder", "no/such/folder"])
def test_a_missing_folder_is_called_that(name: str) -> None:
    with pytest.raises(ModelError, match="no such model folder") as caught:
        load_pretrained(name, "text-generation")
    assert caught.value.value == name


def test_a_hub_out_of_reach_is_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """The suite runs with HF_HUB_OFFLINE=1."""
    with pytest.raises(ModelError) as caught:
        load_pretrained("someone/some-model-that-is-not-here", "text-generation")
    assert caught.value.key == "model.base"
    assert "someone/some-model-that-is-not-here" in str(caught.value)


def test_a_damaged_folder_is_an_error(generator: Path, tmp_path: Path) -> None:
    for file in generator.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelError, match="cannot load the text-generation model"):
        load_pretrained(tmp_path, "text-generation")


def test_unknown_dtypes_are_refused(generator: Path) -> None:
    assert load_pretrained(generator, "text-generation", dtype="bfloat16").model.dtype == torch.bfloat16
    with pytest.raises(ModelError, match="auto, float32, bfloat16"):
        load_pretrained(generator, "text-generation", dtype="float8")


def test_a_tokenizer_without_padding_pads_with_the_end_of_text(tmp_path: Path) -> None:
    bare = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer, eos_token="<eos>")
    bare.save_pretrained(tmp_path / "eos")
    assert load_tokenizer(tmp_path / "eos").pad_token_id == 1
    nothing = PreTrainedTokenizerFast(tokenizer_object=make_tokenizer().backend_tokenizer)
    nothing.save_pretrained(tmp_path / "nothing")
    with pytest.raises(ModelError, match="no token to pad with"):
        load_tokenizer(tmp_path / "nothing")


def test_reading_a_config(generator: Path, tmp_path: Path) -> None:
    assert read_config(generator)["model_type"] == "gpt2"
    with pytest.raises(ModelError):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({})[:1])
    with pytest.raises(ModelError, match="model config"):
        read_config(tmp_path)


def test_a_model_from_elsewhere_loads(shared_folder: Path) -> None:
    """stories260K: a Llama in the wild, without a padding token."""
    loaded = load_pretrained(shared_folder / "models" / "stories260K", "text-generation")
    assert loaded.tokenizer.pad_token_id is not None
