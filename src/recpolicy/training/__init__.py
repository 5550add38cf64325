"""Loops that let an agent learn, whole rounds inside one compiled function, and checkpoints to resume from."""
