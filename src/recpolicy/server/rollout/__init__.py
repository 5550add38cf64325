"""Rollouts: serve a challenger to more and more users, then promote it or roll it back."""
