"""A world of 40 users and 6 actions, small enough to enumerate, to put estimators to the test in."""

from dataclasses import replace
from functools import cache

import numpy as np

from recpolicy.ope.benchmark.logged_world import CardWorld, like_actions
from recpolicy.ope.benchmark.score_estimators import CardConfig, estimator_card
from recpolicy.ope.benchmark.scores import EstimatorCard

USERS, ACTIONS = 40, 6
SCALE = (1.0, 5.0)
CONFIG = CardConfig(sizes=(200, 2_000), repetitions=60, resamples=100, rounds_per_user=5)


def softmax(score, temperature):
    raised = np.exp((score - score.max(axis=1, keepdims=True)) / temperature)
    return raised / raised.sum(axis=1, keepdims=True)


@cache
def card_world(seed: int = 0) -> CardWorld:
    """The reward model is off by 0.4 in every cell, so that dm is wrong and dr is not."""
    rng = np.random.default_rng([seed, 23])
    context = rng.normal(size=(USERS, 2)).astype(np.float32)
    expected = np.clip(3 + context @ rng.normal(0, 0.5, (2, ACTIONS)) + rng.normal(0, 0.3, ACTIONS), 1, 5)
    near = 0.8 * softmax(expected, 0.6) + 0.2 / ACTIONS
    return CardWorld(
        expected=expected, scale=SCALE, target=softmax(expected, 0.3),
        loggers={"near": near / near.sum(axis=1, keepdims=True), "far": np.full(expected.shape, 1 / ACTIONS)},
        q=np.clip(expected + 0.4, 1, 5), context=context, clusters=like_actions(expected, 3), name="planted",
    )  # fmt: skip


@cache
def planted_card() -> EstimatorCard:
    """The card of that world; made once, read by several tests."""
    return estimator_card(card_world(), CONFIG)


def with_tables(**changes) -> CardWorld:
    """The world with other tables."""
    return replace(card_world(), **changes)
