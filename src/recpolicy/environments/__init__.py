"""TF-Agents environments: in-graph and batched; every random draw is a function of (seed, round).

Hence the round number is a bandit environment's whole state. A checkpoint stores it, so a resumed run sees the same
users. The compiled loop and TF-Agents' drivers see the same rounds.
"""
