"""Compression: prune, quantize, and the report of what it cost."""
