"""Hugging Face models: built, loaded and saved, whole or compressed."""
