"""Training: the worker's loop, the strategies that spread it, and its launch on Ray Train."""
