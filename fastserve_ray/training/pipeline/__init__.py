"""A model cut into stages, and the order in which micro batches go through them."""
