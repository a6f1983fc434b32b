"""Other engines, each in a process and a Python environment of its own, for benchmarks/engine_peers.py."""
