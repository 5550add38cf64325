"""Versions of a policy on disk, and the aliases that say which of them serve."""
