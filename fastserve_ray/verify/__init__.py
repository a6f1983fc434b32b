"""The proof that the served model is the trained one: golden inputs, and the quality gate."""
