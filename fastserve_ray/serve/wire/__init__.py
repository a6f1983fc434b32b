"""OpenAI's requests and answers as pydantic models, one file an endpoint. No ray, no torch."""
