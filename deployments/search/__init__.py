"""Semantic search: embeddings find candidates, a cross-encoder puts them in order."""
