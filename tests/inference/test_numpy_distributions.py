"""The stochastic heads in NumPy are those in TensorFlow, and keep the laws of probabilities."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recpolicy.agents import action_distributions as tensorflow_heads
from recpolicy.agents import categorical
from recpolicy.agents.dqn import top_k_logits
from recpolicy.inference import action_distributions
from recpolicy.inference.reward_estimators import Estimate

SETTINGS = {"alpha": 0.5, "scale": 0.75, "epsilon": 0.1, "temperature": 0.25, "gamma": 0.2, "top_k": 2}


@st.composite
def beliefs(draw, narrowest=1 / 16):
    """Means and widths [n, A] in sixteenths, so that ties are exact in both precisions; a mask or None."""
    shape = draw(st.integers(1, 3)), draw(st.integers(1, 6))
    mean = draw(arrays(np.float32, shape, elements=st.integers(16, 80).map(lambda x: x / 16)))
    width = draw(arrays(np.float32, shape, elements=st.integers(1, 32).map(lambda x: x * narrowest)))
    mask = draw(st.none() | arrays(np.bool_, shape))
    if mask is not None:
        mask[:, draw(st.integers(0, shape[1] - 1))] = True
    return mean, width, mask


def numpy_head(name, mean, width, mask):
    return action_distributions.HEADS[name](Estimate(mean, width, score=mean, bound=mean + width), SETTINGS, mask)


def tensorflow_head(name, mean, width, mask):
    return {
        "greedy": lambda: tensorflow_heads.greedy(mean, mask),
        "upper_confidence": lambda: tensorflow_heads.upper_confidence(mean, width, SETTINGS["alpha"], mask),
        "thompson": lambda: tensorflow_heads.thompson(mean, np.float32(SETTINGS["scale"]) * width, mask),
        "epsilon_greedy": lambda: tensorflow_heads.epsilon_greedy(mean, SETTINGS["epsilon"], mask),
        "boltzmann": lambda: tensorflow_heads.boltzmann(mean, SETTINGS["temperature"], mask),
        "exponential_weights": lambda: tensorflow_heads.with_uniform_mix(
            tensorflow_heads.boltzmann(mean, 1.0, mask), SETTINGS["gamma"], mask
        ),
        "optimistic": lambda: tensorflow_heads.greedy(mean + width, mask),
        "squarecb": lambda: tensorflow_heads.squarecb(mean, SETTINGS["gamma"], mask),
        "softmax": lambda: tensorflow_heads.boltzmann(mean, 1.0, mask),
        "epsilon_top_k": lambda: epsilon_top_k(mean, mask),
        "epsilon_greedy_score": lambda: tensorflow_heads.epsilon_greedy(mean, SETTINGS["epsilon"], mask),
    }[name]().numpy()


def epsilon_top_k(mean, mask):
    scores = categorical.mask_logits(mean, mask)
    explored = tf.nn.softmax(top_k_logits(scores, SETTINGS["top_k"], SETTINGS["temperature"]))
    epsilon = SETTINGS["epsilon"]
    return epsilon * explored + (1 - epsilon) * tensorflow_heads.greedy(scores, mask)


@pytest.mark.parametrize("name", action_distributions.HEADS)
@given(belief=beliefs())
@settings(max_examples=40)
def test_both_give_the_same_probabilities(name, belief):
    tolerance = 1e-3 if name == "thompson" else 1e-6
    np.testing.assert_allclose(numpy_head(name, *belief), tensorflow_head(name, *belief), atol=tolerance)


@pytest.mark.parametrize("name", action_distributions.HEADS)
@given(belief=beliefs())
def test_rows_are_probabilities_and_masked_actions_have_none(name, belief):
    probability = numpy_head(name, *belief)
    assert (probability >= 0).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1, atol=1e-6)
    if belief[2] is not None:
        assert (probability[~belief[2]] == 0).all()


@given(belief=beliefs(), uniform_mix=st.floats(0.01, 1))
def test_a_floor_leaves_every_allowed_action_its_share(belief, uniform_mix):
    mean, _, mask = belief
    probability = action_distributions.with_uniform_mix(action_distributions.greedy(mean, mask), uniform_mix, mask)
    allowed = np.ones(mean.shape, bool) if mask is None else mask
    least = np.where(allowed, uniform_mix / allowed.sum(axis=1, keepdims=True), 0)
    assert (probability >= least - 1e-12).all()
    np.testing.assert_allclose(probability.sum(axis=1), 1)


def test_thompson_of_two_arms_is_the_normal_distribution_function():
    # P(X > Y) for X ~ N(3.5, 0.3^2), Y ~ N(3, 0.4^2): the difference is N(0.5, 0.5^2), so Phi(1) = 0.841345
    probability = action_distributions.thompson_probabilities(np.array([[3.5, 3.0]]), np.array([[0.3, 0.4]]), None)
    np.testing.assert_allclose(probability, [[0.841345, 0.158655]], atol=5e-4)


@pytest.mark.parametrize("narrow", [1e-1, 1e-2, 1e-3, 1e-4])
def test_thompson_finds_arms_far_narrower_than_the_others(narrow):
    # A nearly certain 3.0 against N(3, 1) and N(2, 1): it wins when both are below 3, Phi(0) Phi(1) = 0.420672.
    mean, width = np.array([[3.0, 3.0, 2.0]]), np.array([[narrow, 1.0, 1.0]])
    assert action_distributions.thompson_probabilities(mean, width, None)[0, 0] == pytest.approx(0.420672, abs=1e-3)
