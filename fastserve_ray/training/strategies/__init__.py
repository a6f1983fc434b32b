"""How training is spread, one file a strategy."""
