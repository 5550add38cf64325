"""API keys, roles and the first key of a server."""
