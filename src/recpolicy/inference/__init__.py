"""Trained policies at work: the artifact on disk and the predictor that answers from it, without TensorFlow."""
