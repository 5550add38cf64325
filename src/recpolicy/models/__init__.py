"""Supervised models of ratings, the source of embeddings and simulated worlds."""
