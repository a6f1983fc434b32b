"""LoRA and IA3: peft layers in the place of chosen layers, merged into their weights at the end."""

from __future__ import annotations

import difflib
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.spec import AdaLoraAdapter, Ia3Adapter, LoraAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from fastserve_ray.training.adapters.protocol import Occasion

NAME = "default"
"""peft's name of the one adapter."""
ALL_LINEAR = "all-linear"
Spec = TypeVar("Spec", LoraAdapter, AdaLoraAdapter, Ia3Adapter)


class Tuner(Generic[Spec]):
    """An adapter that lives inside the model's own layers."""

    is_mergeable = True

    def __init__(self, spec: Spec, occasion: Occasion) -> None:
        self.spec: Spec = spec
        self.occasion = occasion

    def config(self, model: Any) -> Any:
        """peft's config for ``model``."""
        raise NotImplementedError

    def tuned(self, model: Any) -> Any:
        """peft's tuner, which changes ``model`` in place."""
        raise NotImplementedError

    def attach(self, model: Any) -> torch.nn.Module:
        with torch.random.fork_rng(devices=[]), _quiet(), _peft_errors(model, self.spec.target_modules):
            torch.manual_seed(self.occasion.seed)
            tied = _tied_layers(model)
            self.tuner = self.tuned(model)
            _refuse_tied(tied & set(self.tuner.targeted_module_names))
        if self.occasion.task == "text-classification":
            _train_head(model)
        bare: torch.nn.Module = model
        return bare

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to do between steps."""

    def merged(self, module: Any, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Built anew from the config, since the parameters of ``module`` may be only parts."""
        with torch.device("meta"), _quiet():
            bare = type(module)(module.config)
            tuner = self.tuned(bare)
        own = {name: weight.clone() if ".base_layer." in name else weight for name, weight in state.items()}
        bare.load_state_dict(own, assign=True)  # what is merged changes in place
        for name, buffer in module.named_buffers():  # those that no checkpoint holds
            if bare.get_buffer(name).is_meta:
                parent, _, last = name.rpartition(".")
                bare.get_submodule(parent).register_buffer(last, buffer.detach().cpu(), persistent=False)
        merged: Any = tuner.merge_and_unload()
        merged.tie_weights()
        merged.generation_config = getattr(module, "generation_config", None)
        whole: torch.nn.Module = merged.requires_grad_(True).eval()
        return whole

    def save(self, module: Any, state: Mapping[str, torch.Tensor], tokenizer: Any, folder: Path) -> None:
        raise AssertionError("a merged model is saved as any other")


class LoraTuner(Tuner[LoraAdapter]):
    """``train.adapter.kind: lora``."""

    def config(self, model: Any) -> Any:
        from peft import LoraConfig

        spec = self.spec
        return LoraConfig(
            r=spec.lora_r,
            lora_alpha=spec.lora_alpha,
            lora_dropout=spec.lora_dropout,
            target_modules=lora_targets(spec.target_modules, model),
        )

    def tuned(self, model: Any) -> Any:
        from peft import LoraModel

        return LoraModel(model, self.config(model), NAME)


class Ia3Tuner(Tuner[Ia3Adapter]):
    """``train.adapter.kind: ia3``."""

    def config(self, model: Any) -> Any:
        from peft import IA3Config

        targets, forward = self.spec.target_modules, self.spec.feedforward_modules
        return IA3Config(
            target_modules=None if targets is None else list(targets),
            feedforward_modules=None if forward is None else list(forward),
            init_ia3_weights=True,
        )

    def tuned(self, model: Any) -> Any:
        from peft import IA3Model

        return IA3Model(model, self.config(model), NAME)


def lora_targets(chosen: tuple[str, ...] | None, model: Any) -> list[str] | str | None:
    """What the user chose, else what peft knows of the model's type, else every linear layer but the last."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    if chosen is not None:
        return list(chosen)
    return None if model.config.model_type in KNOWN else ALL_LINEAR


def _tied_layers(model: Any) -> set[str]:
    """Names of the layers that share one matrix: to change one of them would change the other."""
    first, last = model.get_input_embeddings(), model.get_output_embeddings()
    if first is None or last is None or first.weight is not last.weight:
        return set()
    return {name for name, part in model.named_modules() if part is first or part is last}


def _refuse_tied(names: set[str]) -> None:
    if names:
        raise ModelError(
            "the adapter would change a matrix that the first and the last layer share",
            value=", ".join(sorted(names)),
            allowed="layers between them",
            key="train.adapter.target_modules",
        )


def _train_head(model: Any) -> None:
    """All of a classifier beside its body: it may be new, and is small."""
    for name, part in model.named_children():
        if name != model.base_model_prefix:
            part.requires_grad_(True)


@contextmanager
def _quiet() -> Iterator[None]:
    """peft warns that layers are stored transposed, and then does what is right."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="fan_in_fan_out")
        yield


@contextmanager
def _peft_errors(model: Any, chosen: tuple[str, ...] | None) -> Iterator[None]:
    """Names that are not there, as a ModelError that says which are near."""
    try:
        yield
    except ValueError as error:
        names = sorted({name.rpartition(".")[2] for name, part in model.named_modules() if not list(part.children())})
        near = [match for name in chosen or () for match in difflib.get_close_matches(name, names, n=1)]
        raise ModelError(
            f"the adapter does not fit this model ({str(error).strip().splitlines()[0]})",
            value=model.config.model_type if chosen is None else ", ".join(chosen),
            allowed=", ".join(name for name in names if name),
            key="train.adapter.target_modules",
            hint=f"did you mean {', '.join(near)}?" if near else None,
        ) from error
