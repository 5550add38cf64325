"""SquareCB: probabilities worked out by hand in TensorFlow and NumPy, limits of gamma, its schedule, both models."""

import numpy as np
import pytest
import tensorflow as tf
from synthetic_choice import ARMS, environment, make

from recpolicy.agents import action_distributions
from recpolicy.agents.squarecb import SquareCBConfig
from recpolicy.core.errors import ConfigError
from recpolicy.inference import action_distributions as numpy_distributions
from recpolicy.training.compiled_loop import OnlineLoop


def tensorflow_squarecb(mean, gamma, mask):
    mask = None if mask is None else tf.constant(mask)
    return action_distributions.squarecb(tf.constant(mean, tf.float32), gamma, mask).numpy()


def numpy_squarecb(mean, gamma, mask):
    return numpy_distributions.squarecb(np.array(mean), gamma, None if mask is None else np.array(mask))


BOTH = pytest.mark.parametrize("squarecb", [tensorflow_squarecb, numpy_squarecb])


@BOTH
@pytest.mark.parametrize(
    ("mean", "gamma", "mask", "expected"),
    [
        ([0.9, 0.5, 0.1], 10, None, [0.766234, 1 / 7, 1 / 11]),  # 1 / (3 + 10 * .4), 1 / (3 + 10 * .8)
        ([0.5, 0.9, 0.1, 1.0], 10, [True, True, True, False], [1 / 7, 0.766234, 1 / 11, 0]),
        ([0.4], 10, None, [1]),
        ([0.4, 9.0], 10, [True, False], [1, 0]),
        ([0.3, 0.3, 0.3, 0.3], 10, None, [0.25, 0.25, 0.25, 0.25]),
        ([0.9, 0.9, 0.4], 10, None, [0.4375, 0.4375, 0.125]),  # 1 / (3 + 5); ties share the rest
        ([0.9, 0.5, 0.1], 0, None, [1 / 3, 1 / 3, 1 / 3]),
        ([0.9, 0.5, 0.1], 0, [True, False, True], [1 / 2, 0, 1 / 2]),
        ([0.9, 0.5, 0.1], 1e9, None, [1, 0, 0]),
    ],
)
def test_worked_examples(squarecb, mean, gamma, mask, expected):
    probability = squarecb([mean], gamma, None if mask is None else [mask])[0]
    assert probability == pytest.approx(expected, abs=1e-6)
    if mask is not None:
        assert (probability[~np.array(mask)] == 0).all()


def test_gamma_grows_with_the_rounds_in_units_of_the_range_of_rewards():
    agent = make("squarecb")  # gamma_scale 20, stars 1 to 5
    assert float(agent.learner.gamma()) == pytest.approx(20 / 4)
    OnlineLoop(environment(), agent).run(2)  # 2 batches of 8
    assert float(agent.learner.gamma()) == pytest.approx(20 * 4 / 4)
    assert agent.learner.export().settings == {"gamma": pytest.approx(20.0)}
    assert numpy_distributions.squarecb_gamma(16, 20, 0.5) == 80


def test_the_neural_model_learns_as_well():
    agent = make("squarecb", model="neural", head="plain", layers=(16,), learning_rate=0.02)
    rounds = OnlineLoop(environment(), agent).run(240)
    assert rounds.regret[-80:].mean() < 0.6 * rounds.regret[:80].mean()
    exported = agent.learner.export()
    assert (exported.estimator, exported.head) == ("mlp", "squarecb")
    assert exported.arrays["bias_1"].shape == (ARMS,)


@pytest.mark.parametrize("settings", [{"gamma_scale": 0}, {"gamma_exponent": 1.5}, {"model": "hashed"}])
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        SquareCBConfig(**settings)
