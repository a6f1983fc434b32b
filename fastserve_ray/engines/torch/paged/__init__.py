"""Attention by a kernel that follows block tables, and decode steps of fixed shapes captured in CUDA graphs.

The gather path (`ragged.py`) serves CPUs and is the fallback; this one serves GPUs (docs/adr/0006-paged-attention.md).
"""
