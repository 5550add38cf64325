"""Learning from feedback while serving: outside of requests, with checkpoints, deterministic for the same events."""
