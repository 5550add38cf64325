"""The stochastic heads: laws, and the Thompson integral against an exact one and against sampling."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import log_ndtr, ndtr

from recpolicy.agents import action_distributions

B, A = 3, 5
tables = arrays(np.float32, (B, A), elements=st.integers(-3, 3).map(lambda n: n / 2))  # ties are common
masks = arrays(np.bool_, (B, A)).filter(lambda mask: mask.any(axis=1).all())


def all_heads(mean: np.ndarray, width: np.ndarray, mask: np.ndarray | None) -> dict[str, np.ndarray]:
    mean, width = tf.constant(mean), tf.constant(width)
    allowed = None if mask is None else tf.constant(mask)
    every = {
        "uniform": action_distributions.uniform(mean, allowed),
        "greedy": action_distributions.greedy(mean, allowed),
        "upper_confidence": action_distributions.upper_confidence(mean, width, 2.0, allowed),
        "epsilon_greedy": action_distributions.epsilon_greedy(mean, 0.3, allowed),
        "boltzmann": action_distributions.boltzmann(mean, 0.5, allowed),
        "squarecb": action_distributions.squarecb(mean, 7.0, allowed),
        "thompson": action_distributions.thompson(mean, width, allowed),
        "with_uniform_mix": action_distributions.with_uniform_mix(
            action_distributions.greedy(mean, allowed), 0.2, allowed
        ),
    }
    return {name: probability.numpy() for name, probability in every.items()}


@settings(max_examples=25)
@given(mean=tables, width=tables.map(np.abs), mask=masks)
def test_rows_sum_to_one_and_masked_arms_have_exactly_none(mean, width, mask):
    for name, probability in all_heads(mean, width, mask).items():
        np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-5, err_msg=name)
        assert (probability >= 0).all(), name
        np.testing.assert_array_equal(probability[~mask], 0, err_msg=name)


@settings(max_examples=25)
@given(mean=tables, width=tables.map(np.abs))
def test_no_mask_is_the_mask_that_allows_all(mean, width):
    everything = all_heads(mean, width, np.ones((B, A), bool))
    for name, probability in all_heads(mean, width, None).items():
        np.testing.assert_array_equal(probability, everything[name], err_msg=name)


@settings(max_examples=25)
@given(mean=tables, mask=masks)
def test_greedy_ties_share_alike(mean, mask):
    allowed = np.where(mask, mean, -np.inf)
    best = allowed == allowed.max(axis=1, keepdims=True)
    np.testing.assert_allclose(
        action_distributions.greedy(tf.constant(mean), tf.constant(mask)), best / best.sum(axis=1, keepdims=True)
    )


@settings(max_examples=25)
@given(mean=tables, mask=masks, epsilon=st.floats(0, 1))
def test_epsilon_greedy_gives_every_allowed_arm_its_share_of_epsilon(mean, mask, epsilon):
    probability = action_distributions.epsilon_greedy(tf.constant(mean), epsilon, tf.constant(mask)).numpy()
    floor = epsilon / mask.sum(axis=1, keepdims=True)
    assert (np.where(mask, probability - floor, 0) >= -1e-6).all()


def exact_thompson(mean: np.ndarray, width: np.ndarray) -> np.ndarray:
    """The integral in float64, on a grid that holds 1,200 points across every single arm."""
    points = np.sort((mean[:, np.newaxis] + width[:, np.newaxis] * np.linspace(-7, 7, 1200)).ravel())
    standard = (points - mean[:, np.newaxis]) / width[:, np.newaxis]
    logs = log_ndtr(standard)
    middle = (logs[:, 1:] + logs[:, :-1]) / 2
    mass = np.sum(np.diff(ndtr(standard), axis=1) * np.exp(middle.sum(axis=0) - middle), axis=1)
    assert mass.sum() == pytest.approx(1, abs=1e-4)
    return mass / mass.sum()


CASES = {
    "alike": ([3, 3, 3], [1, 1, 1]),
    "one clearly best": ([1, 1, 5], [0.1, 0.1, 0.1]),
    "a narrow and a wide one": ([0, 0], [0.001, 100]),
    "two narrow ones beside a wide one": ([0, 0.0005, 0], [0.001, 0.001, 100]),
    "often played and untried arms": ([3.5, 3.52, 3.0], [0.02, 0.02, 1.0]),
    "six of all kinds": ([3.6, 3.5, 3.55, 3, 2, 4], [0.05, 0.02, 0.1, 0.7, 0.9, 0.03]),
    "many": (np.linspace(2, 4, 60), np.geomspace(0.01, 1, 60)),
}


@pytest.mark.parametrize("case", CASES)
def test_thompson_is_the_exact_integral_even_for_very_unequal_widths(case):
    mean, width = (np.array(part, np.float64) for part in CASES[case])
    ours = action_distributions.thompson(
        tf.constant(mean[np.newaxis], tf.float32), tf.constant(width[np.newaxis], tf.float32), None
    )
    np.testing.assert_allclose(ours.numpy()[0], exact_thompson(mean, width), rtol=0, atol=5e-4)


@settings(max_examples=25)
@given(seed=st.integers(0, 100_000), arms=st.integers(2, 12))
def test_thompson_is_the_exact_integral_for_random_arms(seed, arms):
    rng = np.random.default_rng(seed)
    mean, width = 3 + rng.normal(size=arms) * rng.choice([0.01, 0.1, 1]), 10 ** rng.uniform(-3, 0.3, arms)
    ours = action_distributions.thompson(
        tf.constant(mean[np.newaxis], tf.float32), tf.constant(width[np.newaxis], tf.float32), None
    )
    np.testing.assert_allclose(ours.numpy()[0], exact_thompson(mean, width), rtol=0, atol=1e-3)


@pytest.mark.parametrize("masked", [False, True])
def test_thompson_is_the_share_of_draws_in_which_the_arm_is_largest(masked):
    """400,000 draws; 4 standard errors and 5e-4 for the integral."""
    mean, width = (np.array(part, np.float32) for part in CASES["six of all kinds"])
    mask = np.array([True, True, False, True, True, not masked]) if masked else np.ones(6, bool)
    drawn = mean + width * np.random.default_rng(0).normal(size=(400_000, 6))
    share = np.bincount(np.where(mask, drawn, -np.inf).argmax(axis=1), minlength=6) / len(drawn)
    allowed = tf.constant(mask[np.newaxis]) if masked else None
    ours = action_distributions.thompson(
        tf.constant(mean[np.newaxis]), tf.constant(width[np.newaxis]), allowed
    ).numpy()[0]
    assert (np.abs(ours - share) <= 4 * np.sqrt(share * (1 - share) / len(drawn)) + 5e-4).all()


def test_thompson_without_any_width_is_greedy():
    probability = action_distributions.thompson(tf.constant([[1.0, 2.0, 1.5]]), tf.zeros([1, 3]), None)
    np.testing.assert_allclose(probability, [[0, 1, 0]], atol=1e-6)


@settings(max_examples=25)
@given(
    weights=arrays(np.float32, (B, A), elements=st.sampled_from([0, 0, 1, 2, 1e-6])).filter(
        lambda table: (table > 0).any(axis=1).all()
    ),
    seed=st.integers(-(2**31), 2**31 - 1),
)
def test_an_action_of_probability_zero_is_never_drawn(weights, seed):
    probability = weights / weights.sum(axis=1, keepdims=True)
    action = action_distributions.sample(tf.constant(probability), tf.constant([seed, 1], tf.int32)).numpy()
    assert (probability[np.arange(B), action] > 0).all()


def test_an_action_of_probability_zero_is_never_drawn_under_xla_either():
    """XLA sums prefixes in a tree, so that they grow by rounding errors where the probability is 0.

    64 x 1,682 sparse probabilities, at every prefix: the points where such an error can be hit are tried one by one.
    """
    rng = np.random.default_rng(0)
    weights = rng.random((64, 1682)) * (rng.random((64, 1682)) < 0.02)
    weights[:, 0] = 0.01
    probability = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    below = tf.function(lambda p: tf.cumsum(p, axis=-1), jit_compile=True)(tf.constant(probability)).numpy()
    grows = (np.diff(below, axis=1) > 0) & (probability[:, 1:] == 0)
    assert grows.any()  # else this test tests nothing any more
    aimed = tf.function(lambda p, point: action_distributions.pick(p, point), jit_compile=True)
    for row, arm in np.argwhere(grows)[:50]:
        point = np.full((64, 1), below[row, arm], np.float32)  # drawn, it would have chosen arm + 1
        action = aimed(tf.constant(probability), tf.constant(point)).numpy()
        assert probability[row, action[row]] > 0


def test_sampling_has_the_probabilities_of_the_rows():
    """200,000 draws: every arm within 4.5 standard errors."""
    row = np.array([0.5, 0, 0.2, 0.3, 0], np.float32)
    action = action_distributions.sample(tf.constant(np.tile(row, (200_000, 1))), tf.constant([1, 2]))
    share = np.bincount(action, minlength=5) / 200_000
    np.testing.assert_array_less(np.abs(share - row), 4.5 * np.sqrt(row * (1 - row) / 200_000) + 1e-9)
