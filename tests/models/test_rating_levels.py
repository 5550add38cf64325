"""The distribution of one rating over the levels: against the ordered probit by quadrature, and on planted ratings."""

import math

import numpy as np
import pytest
from scipy.special import ndtr

from recpolicy.core.errors import DataError
from recpolicy.core.normal import normal_cdf
from recpolicy.models.rating_levels import RatingLevels

STARS = RatingLevels((1.0, 2.0, 3.0, 4.0, 5.0), (-2.4, -1.4, -0.2, 1.2))
HALF_STARS = RatingLevels(tuple(np.arange(1, 11) / 2), tuple(np.linspace(-3, 2, 9)))
CLICKS = RatingLevels((0.0, 1.0), (0.3,))


def test_the_normal_distribution_function():
    z = np.linspace(-9, 9, 10_001)
    np.testing.assert_allclose(normal_cdf(z), ndtr(z), atol=1e-6)


@pytest.mark.parametrize("levels", [STARS, HALF_STARS, CLICKS])
def test_probabilities_have_the_given_mean_and_the_given_spread(levels):
    low, high = levels.values[0], levels.values[-1]
    mean, std = np.meshgrid(np.linspace(low, high, 41)[2:-2], np.linspace(0, (high - low) / 5, 7))
    probability = levels.probabilities(mean, std)
    assert probability.shape == (*mean.shape, len(levels.values))
    assert (probability >= 0).all()
    np.testing.assert_allclose(probability.sum(axis=-1), 1, atol=1e-9)
    values = np.array(levels.values)
    found = probability @ values
    np.testing.assert_allclose(found, mean, atol=0.003 * (high - low))
    spread = np.sqrt(probability @ values**2 - found**2)
    np.testing.assert_allclose(levels.spread(mean, std), spread, atol=0.01 * (high - low))


def test_without_uncertainty_it_is_the_ordered_probit_at_one_score():
    """Score .4: P(1) = Phi(-2.8), P(<= 2) = Phi(-1.8), P(<= 3) = Phi(-.6), P(<= 4) = Phi(.8)."""
    below = ndtr(np.array([-2.8, -1.8, -0.6, 0.8]))
    expected = np.diff([0, *below, 1])
    mean = np.array([expected @ np.arange(1, 6)])
    np.testing.assert_allclose(STARS.expected(np.array([0.4])), mean, atol=1e-5)
    np.testing.assert_allclose(STARS.probabilities(mean, np.zeros(1))[0], expected, atol=2e-3)


def test_an_uncertain_score_spreads_as_the_mixture_over_scores_does():
    """Scores Normal(.4, .3^2), by quadrature over 2,001 of them: its mean, and its std of the expected rating."""
    score = np.linspace(-1.6, 2.4, 2001)
    weight = np.exp(-0.5 * ((score - 0.4) / 0.3) ** 2)
    weight /= weight.sum()
    cdf = ndtr(np.array(STARS.cuts) - score[:, np.newaxis])
    each = np.diff(np.concatenate([np.zeros((2001, 1)), cdf, np.ones((2001, 1))], axis=1), axis=1)  # [2001, 5]
    ratings = each @ np.arange(1, 6)
    mean = weight @ ratings
    std = math.sqrt(weight @ (ratings - mean) ** 2)
    found = STARS.probabilities(np.array([mean]), np.array([std]))[0]
    np.testing.assert_allclose(found, weight @ each, atol=4e-3)


def test_the_noise_shrinks_toward_both_ends_and_grows_with_uncertainty():
    spread = STARS.spread(np.array([1.2, 3.0, 4.8]), np.full(3, 0.2))
    assert spread[0] < 0.7 * spread[1]
    assert spread[2] < 0.7 * spread[1]
    assert STARS.spread(np.array([3.0]), np.array([0.6])) > STARS.spread(np.array([3.0]), np.array([0.1])) + 0.1


def test_a_mean_at_the_end_of_the_scale_has_finite_probabilities():
    for levels in (STARS, HALF_STARS, CLICKS):
        ends = np.array([levels.values[0], levels.values[-1]])
        assert np.isfinite(levels.probabilities(ends, np.array([0.0, 10.0]))).all()


def test_it_survives_as_json():
    assert RatingLevels.from_dict(STARS.as_dict()) == STARS


@pytest.mark.parametrize(
    ("values", "cuts"), [((1.0,), ()), ((1.0, 2.0), ()), ((2.0, 1.0), (0.0,)), ((1, 2, 3), (1, 0))]
)
def test_levels_and_cuts_must_ascend(values, cuts):
    with pytest.raises(DataError, match="need ascending cut points"):
        RatingLevels(values, cuts)


@pytest.mark.parametrize("levels", [STARS, HALF_STARS])
def test_the_probability_of_some_levels_is_the_sum_of_theirs(levels):
    mean, std = np.linspace(1.2, 4.8, 7), np.linspace(0.05, 1.5, 7)
    chosen = tuple(value >= 4 for value in levels.values)
    expected = levels.probabilities(mean, std)[:, np.array(chosen)].sum(axis=-1)
    assert np.allclose(levels.probability_of(chosen, mean, std), expected, atol=1e-12)
