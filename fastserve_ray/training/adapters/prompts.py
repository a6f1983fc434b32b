"""Prompt and prefix tuning: learned inputs in front of every text. No plain model can hold them, so the published
folder is the base, with the adapter in a folder of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from fastserve_ray.errors import ModelError
from fastserve_ray.models.loading import ADAPTER_FOLDER, save_model
from fastserve_ray.spec import PromptAdapter

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from fastserve_ray.spec import PrefixAdapter
    from fastserve_ray.training.adapters.protocol import Occasion

_BASE = "base_model."


class LearnedPrompt:
    """``train.adapter.kind: prompt`` and ``prefix``."""

    is_mergeable = False

    def __init__(self, spec: PromptAdapter | PrefixAdapter, occasion: Occasion) -> None:
        self.spec = spec
        self.occasion = occasion

    def attach(self, model: Any) -> torch.nn.Module:
        from peft import get_peft_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.occasion.seed)
            module: Any = get_peft_model(model, self._config())
        if isinstance(self.spec, PromptAdapter) and self.spec.init_text is not None:
            self._start_from(self.spec.init_text, module)
        made: torch.nn.Module = module
        return made

    def _config(self) -> Any:
        from peft import PrefixTuningConfig, PromptTuningConfig, TaskType

        spec = self.spec
        if isinstance(spec, PromptAdapter):
            return PromptTuningConfig(
                task_type=TaskType.CAUSAL_LM,
                num_virtual_tokens=spec.num_virtual_tokens,
                prompt_tuning_init="SAMPLE_VOCAB",
            )
        return PrefixTuningConfig(
            task_type=TaskType.CAUSAL_LM,
            num_virtual_tokens=spec.num_virtual_tokens,
            prefix_projection=spec.projection_size > 0,
            encoder_hidden_size=spec.projection_size or None,
        )

    def _start_from(self, text: str, module: Any) -> None:
        """The text's embeddings, again and again until all virtual tokens have one."""
        ids = self.occasion.tokenizer(text, add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError("the text has no tokens", value=repr(text), key="train.adapter.init_text")
        target = module.prompt_encoder["default"].embedding.weight
        chosen = torch.tensor([ids[index % len(ids)] for index in range(len(target))])
        with torch.no_grad():
            target.copy_(module.get_base_model().get_input_embeddings()(chosen))

    def watch(self, optimizer: torch.optim.Optimizer) -> None:
        """Nothing to do between steps."""

    def merged(self, module: Any, state: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        raise AssertionError("a learned prompt is not merged")

    def save(self, module: Any, state: Mapping[str, torch.Tensor], tokenizer: Any, folder: Path) -> None:
        from peft import get_peft_model

        base = module.get_base_model()
        weights = {name.removeprefix(_BASE): weight for name, weight in state.items() if name.startswith(_BASE)}
        save_model(base, tokenizer, folder, state_dict=weights)
        with torch.device("meta"):
            bare = type(base)(base.config)
        whole: Any = get_peft_model(bare, self._config())
        whole.load_state_dict(state, assign=True)
        whole.peft_config["default"].base_model_name_or_path = self.occasion.base
        whole.save_pretrained(folder / ADAPTER_FOLDER)
