"""One call per job: train, evaluate, estimate, gate, retrain, report."""
