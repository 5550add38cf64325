"""Shared basics, independent of all other packages: errors, files, JSON, configs, seeds, metrics, statistics,
progress."""
