"""Arithmetic of the off-policy actor-critic: numbers computed elsewhere, laws, and a world that a wrong mask breaks."""

from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recpolicy.agents.action_values import (
    advantages,
    all_actions_actor_loss,
    combine_critics,
    expected_sarsa_targets,
    logged_actor_loss,
    policy_values,
    restrict_to_support,
)

LOGITS = np.array([0.2, -0.1, 0.4, 0.0])
LOGGED_VALUES = np.array([0.5, 0.4, 0.3])
BEHAVIOR = np.array([0.5, 0.3, 0.2])
"""Of four actions the behavior policy never takes the last."""


def constant(values) -> tf.Tensor:
    return tf.constant(values, tf.float64)


def softmax(scores: np.ndarray) -> np.ndarray:
    weight = np.exp(scores - scores.max())
    return weight / weight.sum()


def logged_gradient(scores: np.ndarray, values: np.ndarray, behavior: np.ndarray, baseline: float) -> np.ndarray:
    """Return E_mu[w (Q - b) grad log pi], the ascent direction of the logged loss, enumerated over logged actions."""
    logged = np.arange(len(behavior))
    variable = tf.Variable(constant(scores))
    with tf.GradientTape() as tape:
        log_own = tf.gather(tf.nn.log_softmax(variable), logged)
        weight = tf.exp(log_own) / behavior
        loss = logged_actor_loss(log_own, constant(values - baseline), weight, tf.ones_like(weight))
        total = tf.reduce_sum(behavior * loss)
    return -tf.convert_to_tensor(tape.gradient(total, variable)).numpy()


def all_actions_gradient(scores: np.ndarray, values: np.ndarray, k: int = 1) -> np.ndarray:
    """Return the ascent direction of the loss over all actions."""
    variable = tf.Variable(constant(scores[np.newaxis]))
    with tf.GradientTape() as tape:
        loss = all_actions_actor_loss(variable, advantages(constant(values[np.newaxis]), variable), k)
    return -tape.gradient(loss, variable).numpy()[0]


IMPUTED = {
    0.0: (0.050906, 0.018118, -0.002432, -0.066592),
    0.25: (0.036588, 0.007512, -0.019920, -0.024180),
    0.425: (0.026565, 0.000087, -0.032161, 0.005509),
    0.9: (-0.000639, -0.020067, -0.065388, 0.086093),
}


@pytest.mark.parametrize(("baseline", "expected"), IMPUTED.items())
def test_a_logged_gradient_gives_unlogged_actions_the_value_of_the_baseline(baseline, expected):
    """It is the gradient over all actions in which the unlogged action is worth the baseline."""
    found = logged_gradient(LOGITS, LOGGED_VALUES, BEHAVIOR, baseline)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(all_actions_gradient(LOGITS, np.append(LOGGED_VALUES, baseline)), found, atol=1e-12)


def test_the_sign_for_the_unlogged_action_flips_at_the_mean_over_logged_actions():
    own = softmax(LOGITS)
    flip = own[:3] @ LOGGED_VALUES / (1 - own[3])
    assert flip == pytest.approx(0.392526, abs=1e-6)
    for shift in (-1e-4, 1e-4):
        assert np.sign(logged_gradient(LOGITS, LOGGED_VALUES, BEHAVIOR, flip + shift)[3]) == np.sign(shift)


def test_the_mass_of_the_unlogged_action_grows_with_the_baseline():
    """2,000 gradient steps of .1 from the uniform policy; with b = .4 it ends with the mass of the action worth .4."""
    mass = []
    for baseline in (0.0, 0.25, 0.4, 0.9):
        values, scores = constant([[*LOGGED_VALUES, baseline]]), tf.Variable(constant(np.zeros((1, 4))))

        @tf.function(autograph=False)
        def flow(values=values, scores=scores):
            def step(index):
                with tf.GradientTape() as tape:
                    loss = all_actions_actor_loss(scores, advantages(values, scores), 1)
                scores.assign_sub(0.1 * tf.convert_to_tensor(tape.gradient(loss, scores)))
                return (index + 1,)

            tf.while_loop(lambda index: index < 2_000, step, (tf.constant(0),))

        flow()
        own = softmax(scores.numpy()[0])
        mass.append(own[3])
        if baseline == 0.4:
            assert own[3] == pytest.approx(own[1], rel=1e-6)
    np.testing.assert_allclose(mass, [0.0032, 0.0067, 0.0179, 0.9914], atol=5e-5)
    assert np.all(np.diff(mass) > 0)


TRANSITIONS = np.array([[[0.9, 0.1], [0.2, 0.8]], [[0.7, 0.3], [0.4, 0.6]]])
REWARDS = np.array([[1.0, 0.0], [0.5, 0.2]])
TARGET = np.array([[0.6, 0.4], [0.3, 0.7]])
UNIFORM = np.full((2, 2), 0.5)


def log_by(policy: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return state, action and next state of 200 steps by a policy in exactly the expected shares."""
    rows = [
        (state, action, after)
        for state in range(2)
        for action in range(2)
        for after in range(2)
        for _ in range(round(100 * policy[state, action] * TRANSITIONS[state, action, after]))
    ]
    return tuple(np.array(rows).T)


def learn_values(log: tuple[np.ndarray, ...], policy: np.ndarray, gamma: float) -> np.ndarray:
    """Return the fixed point Q [S, A] of the targets: the mean target of each state and action of the log."""
    state, action, after = log
    cell, count = state * 2 + action, np.bincount(state * 2 + action)
    values = np.zeros((2, 2))
    for _ in range(400):
        target = expected_sarsa_targets(
            constant(REWARDS[state, action]), tf.zeros(len(state), tf.bool), tf.ones([len(state), 2], tf.bool),
            constant(np.log(policy)[after]), constant(values[after][np.newaxis]), gamma,
        )  # fmt: skip
        values = (np.bincount(cell, target.numpy()[0]) / count).reshape(2, 2)
    return values


OWN_VALUES = {
    0.0: REWARDS.ravel(),
    0.75: (2.480554, 1.300222, 1.929030, 1.551745),
    0.9: (5.287792, 4.066614, 4.724598, 4.329807),
}


@pytest.mark.parametrize("behavior", [TARGET, UNIFORM], ids=["its own", "uniform"])
@pytest.mark.parametrize(("gamma", "expected"), OWN_VALUES.items())
def test_critics_learn_the_values_of_the_policy_from_a_log_of_any_policy(gamma, expected, behavior):
    found = learn_values(log_by(behavior), TARGET, gamma)
    np.testing.assert_allclose(found.ravel(), expected, atol=1e-5)
    if gamma == 0.75:
        np.testing.assert_allclose((TARGET * found).sum(axis=1), [2.008421, 1.664931], atol=1e-5)


def test_the_returns_of_a_uniform_log_are_other_values():
    found = learn_values(log_by(UNIFORM), UNIFORM, 0.9)
    np.testing.assert_allclose(found.ravel(), (4.939750, 3.845250, 4.412750, 4.072250), atol=1e-5)


def test_the_corridor_is_entered_by_the_critic_and_not_by_returns():
    """At the start B ends with .5; A leads to a room where the log chose the good item (1) with .2, else the bad (0).

    The log's return after A is .9 * .2 = .18, less than .5; the critic's value is .9 * 1 = .9, because the policy
    chooses the good item there.
    """
    room = np.array([1.0, 0.0])
    good = constant([[30.0, -30.0]])
    after = expected_sarsa_targets(
        constant([0.0]),
        tf.constant([False]),
        tf.ones([1, 2], tf.bool),
        good,
        constant(room[np.newaxis, np.newaxis]),
        0.9,
    )
    assert float(after[0, 0]) == pytest.approx(0.9)
    start = np.array([0.5, float(after[0, 0])])
    assert np.argmax(all_actions_gradient(np.zeros(2), start)) == 1
    assert np.argmax(all_actions_gradient(np.zeros(2), np.array([0.5, 0.9 * 0.2]))) == 0


def great_value(masked: bool) -> float:
    """Return Q of an item that pays 1, in sessions that show it and then an item that pays nothing, then end.

    The observation does not know that it was shown; only the mask does.
    """
    values, ends = np.zeros(2), np.array([False, True])
    mask = np.array([[False, True], [False, False]]) if masked else np.ones((2, 2), bool)
    scores = constant(np.tile([30.0, 0.0], (2, 1)))  # the policy prefers the great item
    for _ in range(300):
        target = expected_sarsa_targets(
            constant([1.0, 0.0]),
            tf.constant(ends),
            tf.constant(mask),
            scores,
            constant(np.tile(values, (1, 2, 1))),
            0.9,
        )
        values = target.numpy()[0]
    return values[0]


def test_an_item_that_was_shown_has_no_later_value():
    """Without the mask its value climbs to r / (1 - gamma)."""
    assert great_value(masked=True) == pytest.approx(1.0)
    assert great_value(masked=False) == pytest.approx(10.0, rel=1e-3)


def test_a_target_ends_with_the_session_and_with_the_last_item_but_not_with_a_cut():
    """Rows: the user left, every item was shown, the session was cut (its next observation has a value)."""
    terminated, mask = tf.constant([True, False, False]), tf.constant([[True] * 2, [False] * 2, [True] * 2])
    found = expected_sarsa_targets(
        tf.constant([1.0, 2.0, 3.0]), terminated, mask, tf.zeros([3, 2]), tf.fill([2, 3, 2], 10.0), 0.5
    )
    np.testing.assert_allclose(found, [[1, 2, 8]] * 2)


def test_two_critics_and_kappa_minus_1_give_the_smaller_value():
    values = np.random.default_rng(0).normal(size=(2, 5, 7))
    np.testing.assert_allclose(combine_critics(constant(values), -1.0), values.min(axis=0), atol=1e-12)
    np.testing.assert_allclose(combine_critics(constant(values), 0.0), values.mean(axis=0), atol=1e-12)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), critics=st.integers(2, 5))
def test_values_grow_with_kappa_where_critics_disagree(seed, critics):
    values = np.random.default_rng(seed).normal(size=(critics, 4, 6))
    values[:, :, 0] = values[0, :, 0]  # they agree about one item
    dial = [combine_critics(constant(values), kappa).numpy() for kappa in (-2.0, -1.0, 0.0, 1.0)]
    for lower, upper in pairwise(dial):
        assert (upper[:, 1:] > lower[:, 1:]).all()
        np.testing.assert_allclose(upper[:, 0], lower[:, 0], atol=1e-12)


@settings(max_examples=50)
@given(seed=st.integers(0, 10**6), k=st.integers(1, 4))
def test_a_shift_of_all_values_of_a_state_moves_nothing(seed, k):
    rng = np.random.default_rng(seed)
    scores, values, shift = rng.normal(size=5), rng.normal(size=5), float(rng.normal(0, 10))
    np.testing.assert_allclose(
        all_actions_gradient(scores, values, k), all_actions_gradient(scores, values + shift, k), atol=1e-12
    )
    plain, shifted = (
        advantages(constant(part[np.newaxis]), constant(scores[np.newaxis])).numpy()
        for part in (values, values + shift)
    )
    np.testing.assert_allclose(plain, shifted, atol=1e-12)


@pytest.mark.parametrize("k", [1, 3, 16])
def test_the_gradient_over_all_actions_is_that_of_the_slates_value(k):
    """sum_a alpha_a A_a with alpha = 1 - (1 - pi)^K and A held constant, against finite differences."""
    rng = np.random.default_rng(k)
    scores, values = rng.normal(size=6), rng.normal(size=6)
    advantage, h = values - softmax(scores) @ values, 1e-5

    def slate(at):
        return advantage @ (1 - (1 - softmax(at)) ** k)

    expected = [(slate(scores + step) - slate(scores - step)) / (2 * h) for step in h * np.eye(6)]
    np.testing.assert_allclose(all_actions_gradient(scores, values, k), expected, atol=1e-8)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6))
def test_with_exact_values_the_logged_gradient_is_in_expectation_that_over_all_actions(seed):
    rng = np.random.default_rng(seed)
    scores, values, behavior = rng.normal(size=4), rng.normal(size=4), rng.dirichlet(np.full(4, 5.0))
    baseline = float(policy_values(constant(values[np.newaxis]), constant(scores[np.newaxis]))[0])
    found = logged_gradient(scores, values, behavior, baseline)
    np.testing.assert_allclose(found, all_actions_gradient(scores, values), atol=1e-10)


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_a_critic_removes_the_variance_of_the_return(spread):
    """Var(g_MC) - Var(g_Q) = E[w^2 |grad log pi|^2 Var(G|s, a)]; none where the return follows from the action."""
    scores, values = np.array([0.3, -0.2, 0.5]), np.array([0.5, 0.4, 0.3])
    behavior, own = np.array([0.5, 0.3, 0.2]), softmax(np.array([0.3, -0.2, 0.5]))
    slope, weight = np.eye(3) - own, own / behavior

    def variance(returns: np.ndarray) -> float:
        """Of the gradient of one logged step; returns [A, 2], each with the chance 1/2."""
        samples = []
        for action in range(3):
            for value in returns[action]:
                one = np.zeros(3)
                one[action] = 1.0
                variable = tf.Variable(constant(scores))
                with tf.GradientTape() as tape:
                    log_own = tf.reduce_sum(one * tf.nn.log_softmax(variable))
                    loss = logged_actor_loss(log_own, constant(value), constant(weight[action]), constant(1.0))
                samples.append(-tf.convert_to_tensor(tape.gradient(loss, variable)).numpy())
        chance, samples = np.repeat(behavior / 2, 2), np.array(samples)
        mean = chance @ samples
        return float(chance @ np.square(samples - mean).sum(axis=1))

    critic, carlo = (variance(np.stack([values - part, values + part], axis=1)) for part in (0.0, spread))
    expected = behavior @ (weight**2 * np.square(slope).sum(axis=1) * spread**2)
    assert carlo - critic == pytest.approx(expected, abs=1e-12)
    assert (carlo > critic) == (spread > 0)


def test_unsupported_actions_have_the_worst_supported_value():
    values = constant([[5.0, 1.0, 2.0, -9.0], [5.0, 1.0, 2.0, 3.0]])
    behavior = constant([[0.01, 0.4, 0.59, 0.0], [0.0, 0.0, 0.0, 0.0]])
    mask = tf.constant([[True, True, True, False], [True] * 4])
    found = restrict_to_support(values, behavior, mask, 0.05).numpy()
    np.testing.assert_allclose(found[0], [1, 1, 2, 1])  # the last is masked: its value has no weight
    np.testing.assert_allclose(found[1], values[1])  # nothing is supported
