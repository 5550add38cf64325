"""The simulator on a click and watch log whose responses are planted: the card, watch times, contexts."""

from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from synthetic_responses import STEPS, planted_responses

from recpolicy.data.loaders import load_ratings
from recpolicy.data.splits import split
from recpolicy.evaluation.simulator_card import CardConfig, context_figures, validate_world
from recpolicy.models.session_history import History
from recpolicy.models.session_worlds import fit_two_worlds
from recpolicy.models.user_model import SessionWorldConfig
from recpolicy.models.user_model_fits import LikeModel, fit_like
from recpolicy.testing import planted_environment, planted_sessions

CONFIG = SessionWorldConfig(max_steps=STEPS, rank=4, drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0)
WATCH = (0.02, 0.3, 0.5, 0.6, 0.95)
"""Planted mean watch fraction of each level."""


@cache
def click_log():
    ratings = planted_responses().ratings
    level = ratings.rating.astype(int) - 1
    rng = np.random.default_rng(0)
    watch = np.clip(np.array(WATCH)[level] + rng.uniform(-0.02, 0.02, len(level)), 0, 1)
    users, items = ratings.users["user_id"].to_numpy(), ratings.items["item_id"].to_numpy()
    frame = pd.DataFrame({
        "user": users[ratings.user], "item": items[ratings.item],
        "timestamp": ratings.timestamp, "clicked": (level >= 3).astype(int), "watched": watch,
    })  # fmt: skip
    log = load_ratings(frame, signals={"clicked": "clicked", "watch_fraction": "watched"}, items=ratings.items)
    return split(log, "random", seed=0)


def test_the_card_of_a_planted_click_log_passes():
    card = validate_world(click_log(), CONFIG, CardConfig(replicates=5, bayesian=False, resamples=10))
    assert card.passed, card.table()
    strict = validate_world(
        click_log(), CONFIG, CardConfig(replicates=1, bayesian=False, resamples=0, min_like_auc=0.99)
    )
    assert not strict.gates[0].passed


def test_a_level_pays_its_mean_watch_fraction():
    """Of levels 0 to 4 as the log has them: clicks above and below .875, others by quarters."""
    log = click_log().train
    world = fit_two_worlds(click_log(), CONFIG).training_world
    mine = np.isin(log.user, world.users)
    level = log.rating[mine] - 1
    expected = [log.watch[mine][level == number].mean() for number in range(5)]
    assert world.watch == pytest.approx(expected)
    assert world.watch[3] == pytest.approx(0.6, abs=0.01)  # a quarter would be .75
    assert world.digest != replace(world, watch=(0, 0.25, 0.5, 0.75, 1.0)).digest


def test_the_reward_watch_is_that_of_the_level():
    import tensorflow as tf

    planted = planted_sessions(known=1.0)
    planted = replace(planted, world=replace(planted.world, watch=WATCH))
    environment = planted_environment(planted, reward="watch")
    session = environment.restart(None, None, environment.noise(tf.constant(0)))
    step = environment.transition(session, tf.range(8), environment.noise(tf.constant(1)))
    np.testing.assert_allclose(step.reward, np.array(WATCH)[step.response.level.numpy()], rtol=1e-6)


def test_effects_of_the_context_are_found():
    """Planted log-odds of -1, 0 and 1, centered: within four standard errors of 20,000 rows."""
    rng = np.random.default_rng(0)
    code, expected = rng.integers(0, 3, 20_000), rng.normal(size=20_000)
    like = rng.random(20_000) < 1 / (1 + np.exp(-(0.3 + 0.8 * expected + code - 1.0)))
    zero = np.zeros(20_000)
    context = np.array(["phone", "tablet", "tv"], object)[code]
    model = fit_like(expected, like, History(zero, zero, zero, zero), 0.0, context)
    effect = np.array([model.context[name] for name in ("phone", "tablet", "tv")])
    assert effect == pytest.approx(np.array([-1, 0, 1]) - (code - 1).mean(), abs=0.12)
    assert model.slope == pytest.approx(0.8, abs=0.1)
    odds = model.context_odds(np.array(["tv", "unknown"], object))
    assert odds.tolist() == pytest.approx([effect[2], 0])


def test_the_card_says_what_a_simulation_in_the_usual_context_leaves_out():
    """One user is half of the time on a tv, another always: deviations of 1, 1, 0 and 0 from the usual log-odds."""
    like = LikeModel(0.0, 1.0, np.zeros(2), {"phone": -1.0, "tv": 1.0})
    train = SimpleNamespace(user=np.array([0, 0, 1, 1]), context=np.array(["phone", "tv", "tv", "tv"], object))
    responses = SimpleNamespace(like=like, usual_context=np.array([0.0, 1.0]), expected=np.array([1.0, 1.0, 5.0, 5.0]))
    spread, bias = context_figures(train, responses).values()
    assert spread == np.sqrt(0.5)
    # P(like) of the first user: sigmoid(1) = .731 in place of sigmoid(0) = .5 and sigmoid(2) = .881, whose mean is .690
    assert bias == pytest.approx((0.731059 - (0.5 + 0.880797) / 2) / 2, abs=1e-6)
    assert context_figures(train, SimpleNamespace(like=LikeModel(0.0, 1.0, np.zeros(2)))) == {}
