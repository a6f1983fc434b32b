"""Who asks: API keys at the door, and what the rest of the server knows of a request's client."""
