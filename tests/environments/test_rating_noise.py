import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.environments.rating_noise import sample_ratings
from recpolicy.models.bias import BiasConfig, fit_bias

SEED = tf.constant([3, 5], tf.int32)
MANY = 100_000


@pytest.mark.parametrize(("scale", "steps"), [((1.0, 5.0), 4), ((0.5, 5.0), 9)])
@pytest.mark.parametrize("where", [0.0, 0.1, 0.5, 0.77, 1.0])
def test_mean_is_the_expectation_and_variance_the_binomials(scale, steps, where):
    """n = 100,000; mean within 4.5 standard errors, variance (e - low)(high - e) / steps within 3 %."""
    low, high = scale
    expected = low + where * (high - low)
    paid = sample_ratings(tf.fill([MANY], expected), scale, SEED).numpy().astype(np.float64)
    variance = (expected - low) * (high - expected) / steps
    assert abs(paid.mean() - expected) <= 4.5 * np.sqrt(variance / MANY) + 1e-6
    assert paid.var() == pytest.approx(variance, rel=0.03, abs=1e-6)
    assert set(paid) <= set(np.linspace(low, high, steps + 1))


@given(share=st.floats(0, 1), seed=st.integers(0, 2**31 - 1))
def test_every_draw_is_on_the_scale(share, seed):
    paid = sample_ratings(tf.fill([32], 1 + 4 * share), (1.0, 5.0), tf.constant([seed, 1], tf.int32)).numpy()
    assert set(paid) <= {1.0, 2.0, 3.0, 4.0, 5.0}


def test_draws_of_a_batch_are_independent():
    """Correlation of neighbours, 50,000 pairs: within 4.5 standard errors of 0."""
    paid = sample_ratings(tf.fill([MANY], 3.2), (1.0, 5.0), SEED).numpy()
    assert abs(np.corrcoef(paid[::2], paid[1::2])[0, 1]) < 4.5 / np.sqrt(MANY / 2)


@pytest.mark.band
def test_noise_is_that_of_real_ratings(u1):
    """The bias model's held-out residuals scatter a little more than the noise around its own expectations."""
    expected = fit_bias(u1.train, BiasConfig(), seed=0).mean[u1.test.user, u1.test.item]
    real = np.std(u1.test.rating - expected)
    ours = np.std(sample_ratings(tf.constant(expected), u1.test.scale, SEED).numpy() - expected)
    assert real == pytest.approx(0.95, abs=0.03)
    assert ours == pytest.approx(0.92, abs=0.04)
    assert abs(ours - real) < 0.1
