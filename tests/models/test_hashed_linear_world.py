"""The hashed linear model in a planted world: from logs with importance weights, and live with SquareCB."""

import numpy as np
import pytest
from feature_world import ACTIONS, SCHEMA, FeatureWorld, planted_log

from recpolicy.data.features import FeatureEncoder
from recpolicy.inference.action_distributions import squarecb, squarecb_gamma
from recpolicy.models.hashed_linear import HashedLinear, HashedLinearConfig

WORLD = FeatureWorld.make()
EVERY = np.arange(ACTIONS)


def columns(x):
    return {f"c{place}": x[:, place] for place in range(x.shape[1])}


def learned_from(log):
    """Return the relative value of what one pass over the log learned, on new contexts."""
    encoder = FeatureEncoder.fit(SCHEMA, log.context, log.actions)
    model = HashedLinear(HashedLinearConfig(), SCHEMA.bits, SCHEMA.interactions)
    weight = np.minimum(1 / log.propensity, 50)
    action = encoder.sparse_action(log.actions)
    model.learn(
        encoder.sparse_context(log.context), action, np.arange(len(log)), log.chosen_action, log.reward,
        weight / weight.mean(),
    )  # fmt: skip
    x = WORLD.contexts(20_000, seed=1)
    rows = np.arange(len(x)).repeat(ACTIONS)
    guess = model.predict(encoder.sparse_context(columns(x)), action, rows, np.tile(EVERY, len(x)), compiled=True)
    return WORLD.relative_value(guess.reshape(-1, ACTIONS), x)


def test_reaches_95_percent_of_the_best_bilinear_policy_and_permuted_features_lose_the_gain():
    assert learned_from(planted_log(50_000, world=WORLD, sharpness=0.5)) > 0.95
    assert abs(learned_from(planted_log(50_000, world=WORLD, permuted=True))) < 0.1


def test_the_regret_of_squarecb_is_sublinear():
    """Blocks of 100 rounds, 10,000 rounds: the slope of log regret on log t after the first 1,000."""
    rounds, block = 10_000, 100
    x = WORLD.contexts(rounds, seed=2)
    expected = WORLD.expected_rewards(x)
    rng = np.random.default_rng(0)
    log = planted_log(1_000, world=WORLD)
    encoder = FeatureEncoder.fit(SCHEMA, log.context, log.actions)
    context, action = encoder.sparse_context(columns(x)), encoder.sparse_action(log.actions)
    model = HashedLinear(HashedLinearConfig(), SCHEMA.bits, SCHEMA.interactions)
    regret = []
    best = WORLD.bilinear_scores(x).argmax(axis=1)
    for first in range(0, rounds, block):
        rows = np.arange(first, first + block)
        guess = model.predict(context, action, rows.repeat(ACTIONS), np.tile(EVERY, block), compiled=True)
        probability = squarecb(guess.reshape(block, ACTIONS), squarecb_gamma(first + 1, 10, 0.5), None)
        chosen = (probability.cumsum(axis=1) < rng.random((block, 1))).sum(axis=1).clip(max=ACTIONS - 1)
        regret += (expected[rows, best[rows]] - (probability * expected[rows]).sum(axis=1)).tolist()
        reward = rng.random(block) < expected[rows, chosen]
        model.learn(context, action, rows, chosen, reward.astype(float), compiled=True)
    total = np.cumsum(regret)
    t = np.arange(1_000, rounds)
    slope = np.polyfit(np.log(t + 1), np.log(total[1_000:]), 1)[0]
    assert slope < 0.8
    uniform = (expected.max(axis=1) - expected.mean(axis=1)).cumsum()
    assert np.polyfit(np.log(t + 1), np.log(uniform[1_000:]), 1)[0] == pytest.approx(1, abs=0.02)  # the control
