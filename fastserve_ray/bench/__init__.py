"""A load generator for any OpenAI-compatible server: what is asked and when, the client, and what is made of its notes.

It measures from outside, over HTTP; ``benchmarks/`` measures the parts from inside.
"""
