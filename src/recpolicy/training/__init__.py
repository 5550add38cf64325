"""Loops that let an agent learn, whole rounds inside one compiled function, and the checkpoints that let them resume."""
