"""Supervised models of ratings: what embeddings come from and what simulated worlds are made of."""
