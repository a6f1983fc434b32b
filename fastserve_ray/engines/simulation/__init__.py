"""Discrete-event simulation of the generate engine: its own scheduler and policies, with a model of step times."""
