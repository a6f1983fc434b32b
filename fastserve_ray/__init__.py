"""FastServe-Ray: one YAML file takes a language model from data to a fast, verified, autoscaled endpoint."""

__version__ = "0.1.0"
