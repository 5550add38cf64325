"""A benchmark of the estimators: their errors and the coverage of their intervals where the true value is known."""
