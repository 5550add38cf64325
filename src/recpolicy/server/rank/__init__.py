"""Rank actions with features, and collect their rewards."""
