"""The engine on PyTorch: any Hugging Face causal LM whose attention can be replaced, with continuous batching."""
