"""A planted world of contexts and actions with features, and logs of it.

A context has 20 numbers, each of 10 actions 10. The reward is 1 with a probability that is the logistic of a bilinear
term x'Wz and a smaller term of pairs of context features, else 0. All true values are known.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.data.feature_columns import action_digests
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.features.schema import FeatureSchema, NumberFeature

CONTEXT, ACTION, ACTIONS = 20, 10, 10
Array = NDArray[np.float64]

SCHEMA = FeatureSchema(
    context={f"c{place}": NumberFeature() for place in range(CONTEXT)},
    action={f"a{place}": NumberFeature() for place in range(ACTION)},
)


@dataclass(frozen=True)
class FeatureWorld:
    """The true parameters."""

    bilinear: Array  # [20, 10]
    pairs: Array  # [20, 20, 10]
    actions: Array  # [10, 10], features of the actions
    level: float = -1.0

    @classmethod
    def make(cls, seed: int = 0, pair_share: float = 0.3) -> "FeatureWorld":
        """Return a world whose logits have a standard deviation of about 1."""
        rng = generator(seed, "planted feature world")
        bilinear = rng.normal(size=(CONTEXT, ACTION)) / (CONTEXT * ACTION) ** 0.5
        pairs = pair_share * np.triu(rng.normal(size=(ACTION, CONTEXT, CONTEXT)), 1).transpose(1, 2, 0)
        pairs /= (CONTEXT * (CONTEXT - 1) / 2 * ACTION) ** 0.5
        return cls(1.5 * bilinear, 1.5 * pairs, rng.normal(size=(ACTIONS, ACTION)))

    def contexts(self, rounds: int, seed: int) -> Array:
        """Return contexts [n, 20]."""
        return generator(seed, "planted contexts").normal(size=(rounds, CONTEXT))

    def bilinear_scores(self, x: Array) -> Array:
        """Return the bilinear part [n, 10]: the best that a linear model with interactions can know."""
        return x @ self.bilinear @ self.actions.T

    def expected_rewards(self, x: Array) -> Array:
        """Return the probability of reward 1 of each action [n, 10]."""
        pairs = np.einsum("nc,nd,cdk->nk", x, x, self.pairs, optimize=True) @ self.actions.T
        return 1 / (1 + np.exp(-(self.level + self.bilinear_scores(x) + pairs)))

    def value(self, probabilities: Array, x: Array) -> float:
        """Return the true value of a policy with these probabilities [n, 10]."""
        return float((probabilities * self.expected_rewards(x)).sum(axis=1).mean())

    def relative_value(self, scores: Array, x: Array) -> float:
        """Return the value of the greedy policy of these scores: 0 as the uniform one, 1 as the best bilinear one."""
        best, uniform = self.value(greedy(self.bilinear_scores(x)), x), self.value(np.full((len(x), ACTIONS), 0.1), x)
        return (self.value(greedy(scores), x) - uniform) / (best - uniform)


def greedy(scores: Array) -> Array:
    """Return probability 1 for the best score [n, A]."""
    return (np.arange(scores.shape[1]) == scores.argmax(axis=1)[:, np.newaxis]).astype(float)


def planted_log(
    rounds: int, seed: int = 0, *, world: FeatureWorld | None = None, sharpness: float = 1.0, permuted: bool = False
) -> FeatureLog:
    """Return logged rounds.

    Args:
        rounds: Number of rounds.
        seed: Seed of contexts, choices and rewards.
        world: The world; None: `FeatureWorld.make()`.
        sharpness: Multiple of the scores of another world whose softmax is the logging policy; 0: uniform.
        permuted: Permute the features between the actions of each round: what is logged then says nothing.
    """
    world = world or FeatureWorld.make()
    x = world.contexts(rounds, seed)
    rng = generator(seed, "planted log")
    logits = sharpness * FeatureWorld.make(99).bilinear_scores(x)
    propensity = np.exp(logits - logits.max(axis=1, keepdims=True))
    propensity /= propensity.sum(axis=1, keepdims=True)
    chosen = (propensity.cumsum(axis=1) < rng.random((rounds, 1))).sum(axis=1).clip(max=ACTIONS - 1)
    reward = (rng.random(rounds) < world.expected_rewards(x)[np.arange(rounds), chosen]).astype(float)
    offered = np.tile(np.arange(ACTIONS, dtype=np.int32), rounds)
    if permuted:
        offered = rng.permuted(offered.reshape(rounds, ACTIONS), axis=1).ravel()
    action_id = np.array([f"action {number}" for number in range(ACTIONS)], object)
    actions = {f"a{place}": world.actions[:, place].copy() for place in range(ACTION)}
    return FeatureLog(
        event_id=np.array([f"event {number}" for number in range(rounds)], object),
        time=np.arange(rounds) * 1000,
        context={f"c{place}": x[:, place].copy() for place in range(CONTEXT)},
        action_id=action_id,
        actions=actions,
        action_digest=action_digests(action_id, actions),
        start=np.arange(rounds + 1) * ACTIONS,
        offered=offered,
        chosen=chosen.astype(np.int32),
        log_propensity=np.log(propensity[np.arange(rounds), chosen]),
        reward=reward,
        policy=np.full(rounds, "softmax", object),
        version=np.full(rounds, "0", object),
        name="planted",
        reward_range=(0.0, 1.0),
    )
