"""Off-policy evaluation: the value of a target policy from interactions that another policy logged."""
