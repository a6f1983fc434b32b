"""Shares of a batch by the measured speed of each worker. Pure: no clock, no torch.

A worker's time for n rows is fitted as t(n) = a + b n (``fit``), shares minimise the time of the slowest worker
(``shares``), and ``policy`` says when a change pays. A result does not depend on shares but by rounding: a gradient is
the sum over the batch, whoever computes which part.
"""
