"""Tune: searches over keys of the spec, on Ray Tune."""
