"""Parameters of adapters, against what peft makes."""

from __future__ import annotations

from typing import Any

import pytest
from peft import AdaLoraConfig, IA3Config, LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from pydantic import TypeAdapter
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from fastserve_ray.plan.architecture import read_architecture
from fastserve_ray.plan.trained import adapter_parameters
from fastserve_ray.spec.adapter import AdapterSpec
from tests.training.tiny import CONFIGS

VIRTUAL = {"num_virtual_tokens": 5, "task_type": "CAUSAL_LM"}
CASES: tuple[tuple[str, dict[str, Any], Any], ...] = (
    ("llama", {"kind": "lora", "lora_r": 4}, LoraConfig(r=4)),
    ("gpt2", {"kind": "lora", "lora_r": 4}, LoraConfig(r=4, fan_in_fan_out=True)),
    ("bert", {"kind": "lora"}, LoraConfig(r=8)),
    (
        "llama",
        {"kind": "lora", "target_modules": ["o_proj", "down_proj"]},
        LoraConfig(target_modules=["o_proj", "down_proj"]),
    ),
    ("llama", {"kind": "adalora", "init_r": 6}, AdaLoraConfig(init_r=6, total_step=10)),
    ("llama", {"kind": "ia3"}, IA3Config()),
    ("gpt2", {"kind": "ia3"}, IA3Config(fan_in_fan_out=True)),
    ("bert", {"kind": "ia3"}, IA3Config()),
    ("llama", {"kind": "prompt", "num_virtual_tokens": 5}, PromptTuningConfig(**VIRTUAL)),
    ("gpt2", {"kind": "prefix", "num_virtual_tokens": 5}, PrefixTuningConfig(**VIRTUAL)),
)


@pytest.mark.parametrize(("family", "adapter", "config"), CASES, ids=lambda value: str(value)[:40])
def test_the_count_is_pefts(family: str, adapter: dict[str, Any], config: Any) -> None:
    settings = {**CONFIGS[family], "vocab_size": 64}
    maker = AutoModelForSequenceClassification if family == "bert" else AutoModelForCausalLM
    model = get_peft_model(maker.from_config(AutoConfig.for_model(**settings)), config)
    found = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    sizes = read_architecture(settings)
    assert sizes is not None
    assert adapter_parameters(spec_of(adapter), sizes) == found


def spec_of(adapter: dict[str, Any]) -> AdapterSpec:
    made: AdapterSpec = TypeAdapter(AdapterSpec).validate_python(adapter)
    return made


def test_what_is_known_only_once_it_is_made() -> None:
    sizes = read_architecture(CONFIGS["llama"])
    assert sizes is not None
    assert adapter_parameters(spec_of({"kind": "lora", "target_modules": ["wqkv"]}), sizes) is None
    assert adapter_parameters(spec_of({"kind": "my.module:Adapter"}), sizes) is None
