"""Compiled training loops for agents, and checkpoints for resuming them."""
