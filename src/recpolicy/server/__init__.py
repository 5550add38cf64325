"""The server: it recommends over HTTP, stores feedback, and routes users to versions."""
