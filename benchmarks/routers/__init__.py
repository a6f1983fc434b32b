"""Parts of benchmarks/routing.py: the trace, routers to compare, a simulated cluster, and real Serve replicas."""
