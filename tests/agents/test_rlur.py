"""RLUR: discounts between sessions only, signs, switches, detached bonus, normalized returns, the soft regularizer."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents.rlur import (
    RLUR,
    Batch,
    RLURConfig,
    actor_cost,
    drift_factor,
    normalized_return,
    regularized_loss,
    retention_targets,
)
from recpolicy.core.errors import ConfigError
from recpolicy.models.return_time import expected_days

OBSERVATION, HEADS, ROWS = 4, 2, 32
SEED = tf.constant([1, 2], tf.int32)
SMALL = {"layers": (8,)}


def batch(seed: int = 0, **parts) -> Batch:
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return tf.constant(rng.normal(size=shape), tf.float32)

    last = tf.constant(rng.random(ROWS) < 0.3)
    fields = {
        "observation": draw(ROWS, OBSERVATION), "action": tf.tanh(draw(ROWS, HEADS)),
        "behavior_mean": tf.tanh(draw(ROWS, HEADS)), "explored": tf.zeros(ROWS, tf.bool), "like": tf.abs(draw(ROWS)),
        "cost": tf.where(last, tf.abs(draw(ROWS)), 0.0), "last": last, "terminated": tf.zeros(ROWS, tf.bool),
        "next_observation": draw(ROWS, OBSERVATION),
    }  # fmt: skip
    return Batch(**{**fields, **parts})


@pytest.fixture(scope="module")
def agents():
    """Two agents with their updates compiled; tests restart them."""
    made = RLUR(OBSERVATION, HEADS, RLURConfig(**SMALL)), RLUR(OBSERVATION, HEADS, RLURConfig(**SMALL))

    def compile_updates(agent):
        def steps(batch):
            agent.update_critics(batch, SEED)
            agent.update_actor(batch, SEED)

        return tf.function(steps, autograph=False)

    return [(agent, compile_updates(agent)) for agent in made]


def arrays(networks) -> list[np.ndarray]:
    return [variable.numpy() for variable in networks.weights]


def test_every_request_of_a_session_has_the_whole_return_cost():
    # Two sessions of 3 requests, T = (2, 4), gamma .95: 2 + .95 * 4 = 5.8 at each request of the first one. A discount
    # at each request gives .95^2 * 5.8 = 5.2345 at the first request.
    cost = tf.constant([0.0, 0.0, 2.0, 0.0, 0.0, 4.0])
    last = tf.constant([False, False, True, False, False, True])
    over = tf.constant([False] * 5 + [True])
    ours, naive = tf.zeros(6), tf.zeros(6)
    for _ in range(6):
        ours = retention_targets(cost, last, over, tf.concat([ours[1:], [9.0]], axis=0), 0.95)
        naive = retention_targets(cost, last, over, tf.concat([naive[1:], [9.0]], axis=0), 0.95, 0.95)
    np.testing.assert_allclose(ours, [5.8, 5.8, 5.8, 4, 4, 4], rtol=1e-6)
    # The naive chain discounts session 2 inside, too: its first request is worth .95^2 * 4.
    assert naive[0].numpy() == pytest.approx(0.95**2 * (2 + 0.95 * 0.95**2 * 4), rel=1e-6)
    one_session = retention_targets(
        tf.constant([0.0]), tf.constant([False]), tf.constant([False]), 0.95 * 5.8, 0.95, 0.95
    )
    assert one_session.numpy()[0] == pytest.approx(5.2345, rel=1e-6)


def test_normalized_returns_are_clipped_and_finite():
    days, short = np.array([1.0, 6.0, 20.0, 2.0]), np.array([0.2, 0.5, 0.9, 1.0])
    np.testing.assert_allclose(normalized_return(days, short, 3.0), [0.41667, 3, 3, 3], atol=1e-5)
    assert normalized_return(np.array([1.0]), np.array([1.0]), 3.0, cap=100)[0] == pytest.approx(1 / (0.05 * 3))


def test_the_actor_minimizes_return_days():
    # One parameter: Q_T(a) = a, so a day-5 action costs more than a day-1 action; a step must lower it.
    action = tf.Variable([5.0, 1.0])
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(actor_cost(action, tf.zeros(2), 1.0, 1.0))
    assert (tape.gradient(loss, action).numpy() > 0).all()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(actor_cost(tf.zeros(2), action, 1.0, 1.0))
    assert (tape.gradient(loss, action).numpy() < 0).all()  # likes rise


def test_the_frontier_of_two_arms_switches_once():
    # Likes .6 or .5, return probabilities .4 or .6: E[D] 2.439 or 1.666, so the arms tie at .1 / .7735.
    days, likes = expected_days(np.array([0.4, 0.6])), np.array([0.6, 0.5])
    ratios = np.linspace(0, 0.5, 501)
    cost = [actor_cost(tf.constant(days), tf.constant(likes), ratio, 1.0).numpy() for ratio in ratios]
    arm = np.argmin(cost, axis=1)
    assert arm[0] == 0
    assert arm[-1] == 1
    (switch,) = np.flatnonzero(np.diff(arm))
    assert ratios[switch] < 0.1 / (days[0] - days[1]) <= ratios[switch + 1]


@pytest.mark.parametrize(
    ("settings", "ignored"),
    [
        ({"lambda_return": 0.0}, {"cost": tf.random.stateless_uniform([ROWS], [1, 2], 0.0, 5.0)}),
        ({"lambda_immediate": 0.0}, {"like": tf.random.stateless_uniform([ROWS], [1, 2], 0.0, 5.0)}),
    ],
)
def test_a_weight_of_zero_is_the_agent_of_the_other_reward(agents, settings, ignored):
    for (agent, update), parts in zip(agents, ({}, ignored), strict=True):
        agent.restart(RLURConfig(**settings, **SMALL), 0)
        for seed in range(3):
            update(batch(seed, **parts))
    first, second = (arrays(agent.actor.networks) for agent, _ in agents)
    for ours, theirs in zip(first, second, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(arrays(agents[0][0].critic)[0], arrays(agents[1][0].critic)[0]) or "like" in ignored


def test_the_bonus_never_moves_the_retention_critic(agents):
    agent, _ = agents[0]
    agent.restart(RLURConfig(rnd_coef=5.0, **SMALL), 0)
    before, immediate = agent.targets(batch(), SEED)
    kernel = agent.fixed_encoder.kernels[-1]
    kernel.assign(tf.reverse(kernel, axis=[2]))  # another random encoder
    after, moved = agent.targets(batch(), SEED)
    np.testing.assert_array_equal(before, after)
    assert not np.allclose(immediate, moved)


def test_the_encoder_learns_its_error_and_only_that(agents):
    agent, update = agents[0]
    agent.restart(RLURConfig(**SMALL), 0)
    rows, encoder = batch(), arrays(agent.encoder)
    start = float(tf.reduce_mean(agent.bonus(rows.observation)))
    for _ in range(20):
        update(rows)
    assert float(tf.reduce_mean(agent.bonus(rows.observation))) < 0.95 * start
    other = agents[1]
    other[0].restart(RLURConfig(rnd_coef=50.0, **SMALL), 0)
    for _ in range(20):
        other[1](rows)
    for ours, theirs in zip(arrays(agent.encoder), arrays(other[0].encoder), strict=True):
        np.testing.assert_array_equal(ours, theirs)  # the critics' errors do not reach it
    assert not np.array_equal(encoder[0], arrays(agent.encoder)[0])


def test_the_regularizer_penalizes_drift_whatever_the_sign_of_the_cost():
    own, logged = tf.constant([-1.0, 0.0, 1.0, 50.0]), tf.zeros(4)
    np.testing.assert_allclose(drift_factor(own, logged, 1.5), np.exp([0, 0, 1.5, 5.0]), rtol=1e-6)
    shift = tf.Variable(0.0)
    for level in (-100.0, 100.0):  # the sign of the cost must not turn a penalty into a reward
        with tf.GradientTape() as tape:
            loss = regularized_loss(tf.constant([level, level + 1]), drift_factor(shift + 0.5, tf.zeros(2), 1.5))
        assert tape.gradient(loss, shift).numpy() > 0


def test_activity_decides_the_actor(agents):
    agent, _ = agents[0]
    agent.restart(RLURConfig(**SMALL), 0)
    rows = np.zeros((2, OBSERVATION), np.float32)
    rows[:, 0], rows[0, -1], rows[1, -1] = 1.0, 1e-4, -1e-4
    high, low = agent.actor(tf.constant(rows)).numpy()
    assert np.abs(high - low).max() > 1e-2
    agent.restart(RLURConfig(activity_actors=False, **SMALL), 0)
    high, low = agent.actor(tf.constant(rows)).numpy()
    np.testing.assert_allclose(high, low, atol=1e-3)
    agent.actor.assign_constant(np.array([0.5, -0.25]))
    np.testing.assert_allclose(agent.actor(tf.constant(rows)), [[0.5, -0.25]] * 2, rtol=1e-6)


def test_settings_out_of_range_are_refused():
    with pytest.raises(ConfigError, match=r"gamma_sessions is 1\.5"):
        RLURConfig(gamma_sessions=1.5)
