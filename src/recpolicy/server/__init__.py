"""The server: recommendations over HTTP, what came of them, and who serves what to whom."""
