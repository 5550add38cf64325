"""TF-Agents bandit environments: in-graph, batched, every random draw a function of (seed, round).

Because nothing is random but through the round number, an environment's whole state is that number: a checkpoint holds
it, a resumed run sees the same users, and the compiled loop and TF-Agents' own drivers see the same rounds.
"""
