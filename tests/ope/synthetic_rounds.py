"""Logged rounds with a known truth."""

import numpy as np
from hypothesis import strategies as st

from recpolicy.ope.feedback import BanditFeedback, TargetPolicy

# The five rounds of the oracle: two actions, weights 2, 1/3, 1/3, 2, 2.
ACTION = np.array([0, 1, 1, 0, 0])
REWARD = np.array([1.0, 0, 1, 0, 1])
MU, PI, Q = np.array([0.4, 0.6]), np.array([0.8, 0.2]), np.array([0.6, 0.3])
WEIGHT = (PI / MU)[ACTION]
DIRECT = np.full(5, PI @ Q)  # .8 * .6 + .2 * .3 = .54


def five_rounds(**changes) -> BanditFeedback:
    fields = {"action": ACTION, "reward": REWARD, "behavior_prob": MU[ACTION], "user": np.arange(5), "actions": 2}
    return BanditFeedback(**fields | {"logging_probs": np.tile(MU, (5, 1))} | changes)


def five_targets() -> TargetPolicy:
    return TargetPolicy(PI[ACTION], np.tile(PI, (5, 1)))


@st.composite
def simplexes(draw, size):
    """Probabilities that are all at least .01 or so."""
    raw = np.array(draw(st.lists(st.floats(0.05, 1), min_size=size, max_size=size)))
    return raw / raw.sum()


def vectors(size, low=-3.0, high=3.0):
    return st.lists(st.floats(low, high, width=32), min_size=size, max_size=size).map(np.array)


class World:
    """Two contexts, five actions, Bernoulli rewards: every expectation can be enumerated."""

    chance = np.array([[0.1, 0.3, 0.5, 0.7, 0.9], [0.8, 0.2, 0.6, 0.1, 0.3]])  # [2, A]
    logging = np.array([[0.4, 0.3, 0.15, 0.1, 0.05], [0.1, 0.2, 0.2, 0.2, 0.3]])
    target = np.array([[0.05, 0.05, 0.2, 0.3, 0.4], [0.5, 0.1, 0.2, 0.1, 0.1]])
    value = float((target * chance).sum(axis=1).mean())
    logged_value = float((logging * chance).sum(axis=1).mean())

    def log(self, rounds: int, seed: int, users: int | None = None) -> BanditFeedback:
        """Contexts by coin; with `users` a user's rounds are spread unevenly, but alike only by chance."""
        rng = np.random.default_rng(seed)
        context = rng.integers(2, size=rounds)
        action = (rng.random((rounds, 1)) > self.logging[context].cumsum(axis=1)).sum(axis=1).clip(max=4)
        reward = (rng.random(rounds) < self.chance[context, action]).astype(float)
        user = np.arange(rounds) if users is None else rng.integers(users, size=rounds)
        return BanditFeedback(
            action, reward, self.logging[context, action], user, 5,
            context[:, None].astype(np.float32), self.logging[context],
        )  # fmt: skip

    def target_in(self, rounds: BanditFeedback) -> TargetPolicy:
        table = self.target[rounds.context[:, 0].astype(int)]
        return TargetPolicy(table[np.arange(len(rounds)), rounds.action], table)

    def q_in(self, rounds: BanditFeedback) -> np.ndarray:
        """The exact expected rewards [N, A]."""
        return self.chance[rounds.context[:, 0].astype(int)]


WORLD = World()
