"""Data: sources to token sequences, and the prepared dataset that training reads."""
