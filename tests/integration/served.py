"""Model folders for the tests of serving: random weights, small, quick to load."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from fastserve_ray.models.pooling import Pooling
from tests.engines.tiny import build_classifier, build_encoder, build_model, build_tokenizer

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = 2048
"""Tokens; long enough that a test can leave a request while it runs."""
TEMPLATE = (
    "{% if tools %}tools: {% for tool in tools %}{{ tool.function.name }} {% endfor %}\n{% endif %}"
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
LABELS = {0: "negative", 1: "positive", 2: "unsure"}


def save_generator(folder: Path, *, chat_template: str | None = TEMPLATE, seed: int = 0) -> Any:
    """A llama that never ends a greedy text by itself; returns the model."""
    model = build_model("llama", seed=seed, max_position_embeddings=CONTEXT)
    model.lm_head.weight.data[model.config.eos_token_id] = 0  # the logit of the end is never the largest
    tokenizer = copy.deepcopy(build_tokenizer())
    tokenizer.model_max_length = CONTEXT
    tokenizer.chat_template = chat_template
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model


def save_embedder(folder: Path) -> Any:
    """A BERT with its pooling, as sentence-transformers keeps one; returns the model."""
    model = build_encoder()
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)
    Pooling().save(folder, model.config.hidden_size)
    return model


def save_classifier(folder: Path, *, seed: int = 0) -> None:
    label2id = {name: index for index, name in LABELS.items()}
    model = build_classifier("bert", seed=seed, id2label=LABELS, label2id=label2id)
    model.save_pretrained(folder)
    build_tokenizer().save_pretrained(folder)


def generate(folder: Path, prompt: str, max_tokens: int) -> tuple[str, int]:
    """What transformers' generate adds to ``prompt``, and the prompt's tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    inputs = tokenizer(prompt, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    output = model.generate(
        inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        do_sample=False,
        max_new_tokens=max_tokens,
        min_new_tokens=max_tokens,
    )
    whole, start = tokenizer.decode(output[0]), tokenizer.decode(output[0][:length])
    return whole[len(start) :], length
