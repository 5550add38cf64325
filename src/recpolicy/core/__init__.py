"""What every other room may use and which knows nothing of them: errors, files, seeds, configs, metrics, progress."""
