"""Bandit agents: one file each, with its config, its `make_` function, its arithmetic as pure functions, its source.

An agent never knows where its experience came from: it learns from (observation, action, reward) batches.
"""
