"""How much a client may ask: requests and tokens a minute, requests at once, and what it has used."""
