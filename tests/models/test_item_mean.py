import numpy as np
import pytest
from synthetic_ratings import table

from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean

# Item 0 is rated 5 and 4, item 1 is rated 1, item 2 by nobody; the overall mean is 10/3.
RATINGS = table(np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([5.0, 4.0, 1.0]), (2, 3))


def test_each_item_gets_its_mean_and_an_unrated_one_the_overall_mean():
    model = fit_item_mean(RATINGS, ItemMeanConfig(), seed=0)
    np.testing.assert_allclose(model.mean, [[4.5, 1.0, 10 / 3]] * 2, rtol=1e-6)


def test_damping_adds_so_many_ratings_of_the_overall_mean():
    model = fit_item_mean(RATINGS, ItemMeanConfig(damping=1), seed=0)
    np.testing.assert_allclose(model.mean[0], [(9 + 10 / 3) / 3, (1 + 10 / 3) / 2, 10 / 3], rtol=1e-6)


def test_noise_has_the_freedom_of_three_ratings_less_two_means():
    model = fit_item_mean(RATINGS, ItemMeanConfig(), seed=0)
    assert model.noise_std == pytest.approx(np.sqrt(0.5 / 1))  # residuals .5, -.5, 0
    np.testing.assert_allclose(model.std[0], model.noise_std / np.sqrt([3, 2, 1]), rtol=1e-6)
