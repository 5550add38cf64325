"""Learning from feedback while serving: off the request path, checkpointed, and the same for the same events."""
