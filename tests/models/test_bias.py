import numpy as np
import pytest
from synthetic_ratings import rmse, table

from recpolicy.data.splits import split
from recpolicy.models.bias import BiasConfig, effective_parameters, fit_bias, fit_biases

FOLDS = {"u1": 0.9599, "u2": 0.9476, "u3": 0.9405, "u4": 0.9382, "u5": 0.9422, "ua": 0.9639, "ub": 0.9752}


def test_one_epoch_sets_items_first_and_then_users():
    # mu = 3. Item 0: residuals 2, 0 -> 2 / (2 + 2) = .5; item 1: residual -2 -> -2 / (1 + 2) = -2/3.
    # User 0: (2 - .5) + (-2 + 2/3) = 1/6 -> / (2 + 1) = 1/18; user 1: 0 - .5 -> / (1 + 1) = -.25.
    ratings = table(np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([5.0, 3.0, 1.0]), (2, 2))
    biases = fit_biases(ratings, BiasConfig(reg_user=1, reg_item=2, epochs=1))
    np.testing.assert_allclose(biases.item, [0.5, -2 / 3])
    np.testing.assert_allclose(biases.user, [1 / 18, -0.25])


def test_additive_ratings_are_recovered_exactly_without_shrinkage():
    user, item = (index.ravel() for index in np.indices((6, 5)))
    truth = 3 + np.linspace(-0.5, 0.5, 6)[:, None] + np.linspace(-1, 1, 5)
    ratings = table(user, item, truth[user, item], (6, 5))
    model = fit_bias(ratings, BiasConfig(reg_user=0, reg_item=0), seed=0)
    np.testing.assert_allclose(model.mean, truth, atol=1e-5)


def test_shrunken_biases_count_as_less_than_one_parameter_each():
    # Users with 2 and 1 ratings, reg 2: 2/4 + 1/3; items with 2 and 1 ratings, reg 1: 2/3 + 1/2.
    ratings = table(np.array([0, 1, 0]), np.array([0, 0, 1]), np.array([5.0, 3.0, 1.0]), (2, 2))
    config = BiasConfig(reg_user=2, reg_item=1)
    assert effective_parameters(fit_biases(ratings, config), config) == pytest.approx(1 / 2 + 1 / 3 + 2 / 3 + 1 / 2)
    free = BiasConfig(reg_user=0, reg_item=0)
    assert effective_parameters(fit_biases(ratings, free), free) == 4


def test_noise_is_estimated_without_the_flattery_of_many_parameters():
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((200, 40)) < 0.2)  # 1,600 ratings and 240 biases
    truth = 3 + 0.3 * rng.normal(size=(200, 1)) + 0.3 * rng.normal(size=40)
    rating = np.clip(truth[user, item] + rng.normal(0, 0.4, len(user)), 1, 5)
    model = fit_bias(table(user, item, rating, (200, 40)), BiasConfig(reg_user=1.8, reg_item=1.8), seed=0)
    assert model.noise_std == pytest.approx(0.4, abs=4 * 0.4 / np.sqrt(2 * len(user)))  # four standard errors


def test_a_user_with_more_ratings_is_surer():
    ratings = table(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 3.0, 1.0]), (3, 2))
    std = fit_bias(ratings, BiasConfig(), seed=0).std
    assert std[0, 0] < std[1, 0] < std[2, 0]


@pytest.mark.band
@pytest.mark.parametrize("fold", sorted(FOLDS))
def test_official_folds_have_their_known_error(ml100k, fold):
    parts = split(ml100k, fold)
    model = fit_bias(parts.train, BiasConfig(), seed=0)
    assert rmse(model.mean, parts.test) == pytest.approx(FOLDS[fold], abs=0.0005)
