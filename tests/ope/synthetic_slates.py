"""Slates of 3 slots and 3 items, of which every expectation can be enumerated."""

from itertools import product

import numpy as np

from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.feedback import SlateFeedback
from recpolicy.ope.fqe import FQEConfig, StepModel, by_position, linear_model

FEW = MultiStepConfig(resamples=100)


def every_slate(slots, items):
    return np.array(list(product(range(items), repeat=slots)))


def at(table, slates):
    """Cells [N, K] of a table [K, D]."""
    return table[np.arange(slates.shape[1]), slates]


K, D = 3, 3
SLATES = every_slate(K, D)
MU = np.array([[0.5, 0.3, 0.2], [0.2, 0.2, 0.6], [0.4, 0.3, 0.3]])
PI = np.array([[0.1, 0.2, 0.7], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3]])
WORTH = np.array([[0.05, 0.2, 0.3], [0.3, 0.1, 0.0], [0.0, 0.25, 0.1]])
CHANCE, WANTED = at(MU, SLATES).prod(axis=1), at(PI, SLATES).prod(axis=1)
ALL = at(PI / MU, SLATES)
TIMES = np.rint(1_000 * CHANCE).astype(int)
"""How often each slate is among 1,000 that are logged exactly as often as MU says."""

# Cascade: a slot earns by itself and by the slot above.
PAIR = np.array([[0.0, 0.4, 0.1], [0.5, 0.0, 0.2], [0.6, 0.1, 0.0]])


def cascade(slates):
    earned = at(WORTH, slates)
    earned[:, 1:] += PAIR[slates[:, :-1], slates[:, 1:]]
    return earned


def logged(slates: int, seed: int, mu=MU, pi=PI, earn=cascade, users=None) -> tuple[SlateFeedback, np.ndarray]:
    """Slates drawn slot by slot, each slot paid by coin; and their items [N, K]."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.choice(D, slates, p=row) for row in mu], axis=1)
    paid = (rng.random(items.shape) < np.clip(earn(items), 0, 1)).astype(float)
    user = np.arange(slates) if users is None else rng.integers(users, size=slates)
    return SlateFeedback(at(mu, items), at(pi, items), paid.sum(axis=1), user, paid), items


def additive(slates):
    return at(WORTH, slates)


def interacting(slates):
    """Worth 1 more in the first slot for a pair that the second slot completes."""
    earned = at(WORTH, slates)
    earned[:, 0] += (slates[:, 0] == 2) * (slates[:, 1] == 0)
    return earned


def slate_moments(slates, prob, items):
    """Gamma [K M, K M] and q [K M] of a policy that is given by all its slates [S, K] and their probabilities [S]."""
    shown = np.eye(items)[slates].reshape(len(slates), -1)
    return (shown * prob[:, None]).T @ shown, prob @ shown


def thousand(earn, pi=PI) -> SlateFeedback:
    """1,000 slates that hold each as often as MU shows it, paid what they are worth: means are expectations."""
    items = np.repeat(SLATES, TIMES, axis=0)
    earned = earn(items)
    return SlateFeedback(at(MU, items), at(pi, items), earned.sum(axis=1), np.arange(len(items)), earned)


def fitted_model(log: SlateFeedback, items, pi=PI) -> StepModel:
    """Q linear in one feature for each pair of an item and the one above."""
    above = np.concatenate([np.zeros((len(items), 1), int), items[:, :-1]], axis=1)
    pairs = np.eye(D * D)
    slot = np.arange(K)
    spread = np.stack([np.einsum("d,cdf->cf", pi[k], pairs.reshape(D, D, -1)) for k in range(K)])  # [K, D, F]
    features, expected = by_position(pairs[above * D + items]), by_position(spread[slot, above])
    return linear_model(log.trajectories(), features, expected, FEW, FQEConfig(ridge=1e-3))
