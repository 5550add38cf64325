"""Predict with trained policies: the artifact on disk, the scorer and the predictor, without TensorFlow."""
