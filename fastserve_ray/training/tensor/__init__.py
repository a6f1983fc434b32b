"""Tensor parallelism for training: layers cut over the ranks of a tensor group (Megatron-LM, arXiv 1909.08053)."""
