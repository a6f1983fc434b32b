"""Tasks: batches, loss and metrics, shared by training, tuning, compression and verification."""
