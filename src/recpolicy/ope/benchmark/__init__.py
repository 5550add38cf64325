"""Grade the off-policy estimators in a simulated world whose true policy values are known."""
