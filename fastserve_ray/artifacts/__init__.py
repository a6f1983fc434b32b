"""Artifacts: files and a manifest, immutable, found by the digest of all that decides their content."""
