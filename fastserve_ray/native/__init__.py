"""Kernels in C++, built for the CPU at hand when they are first used."""
