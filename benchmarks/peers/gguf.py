"""A Qwen2 folder of Hugging Face to a GGUF file, in float32 or 8-bit blocks of 32 (q8_0)."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


def write_gguf(source: Path, file: Path, precision: str) -> None:
    """Norms and biases stay float32, as in llama.cpp's own conversion."""
    gguf, safetensors = import_module("gguf"), import_module("safetensors")
    config = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(file, "qwen2")
    _add_shape(writer, config)
    _add_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()))
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, config["num_hidden_layers"])
    kind = gguf.GGMLQuantizationType.Q8_0 if precision == "q8_0" else gguf.GGMLQuantizationType.F32
    with safetensors.safe_open(source / "model.safetensors", "numpy") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            tensor = weights.get_tensor(name)
            target = names.get_name(name, try_suffixes=(".weight", ".bias"))
            if tensor.ndim == 2:
                writer.add_tensor(target, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
            else:
                writer.add_tensor(target, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: Any, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta") or config["rope_parameters"]["rope_theta"])


def _add_tokenizer(writer: Any, tokenizer: dict[str, Any]) -> None:
    """Of byte-level BPE, each entry of the vocabulary and each merge."""
    vocabulary = sorted(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].__getitem__)
    special = {entry["content"] for entry in tokenizer["added_tokens"] if entry["special"]}
    token_type = import_module("gguf").TokenType
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(vocabulary)
    writer.add_token_types([token_type.CONTROL if word in special else token_type.NORMAL for word in vocabulary])
    writer.add_token_merges([" ".join(pair) for pair in tokenizer["model"]["merges"]])
    writer.add_eos_token_id(len(vocabulary) - 1)
