"""Tensor parallelism: one model over several processes, driven by one scheduler.

Rank 0 has the engine: scheduler, sampling, text. It sends every step's input to the other ranks, and all ranks run the
step on their share of the heads, of the MLP's columns and of the vocabulary (Shoeybi et al. 2019, arXiv 1909.08053).
"""
