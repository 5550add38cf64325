import numpy as np
import pytest
from synthetic_ratings import rank_two, rmse

from recpolicy.data.splits import split
from recpolicy.models.bias import BiasConfig, fit_bias
from recpolicy.models.svd import SVDConfig, fit_factors, fit_svd


def objective(fit, factors, config):
    """The penalised squared error that alternation must never raise."""
    error = fit.rating - factors.expected()[fit.user, fit.item]
    value = np.sum(error**2)
    for row, side in ((fit.user, factors.user), (fit.item, factors.item)):
        penalty = config.reg_0 + config.reg * np.bincount(row, minlength=len(side))
        value += penalty @ np.sum(side**2, axis=1)
    return value


def test_each_epoch_lowers_the_objective():
    fit, _ = rank_two(seed=0, noise=0.3, users=40, items=30)
    values = []
    for epochs in range(1, 8):
        config = SVDConfig(rank=3, epochs=epochs)
        values.append(objective(fit, fit_factors(fit, config, seed=0), config))
    assert np.all(np.diff(values) < 0)


def test_covariance_is_the_inverse_of_the_penalised_gram_matrix():
    fit, _ = rank_two(seed=0, noise=0.3, users=12, items=10)
    config = SVDConfig(rank=2)
    factors = fit_factors(fit, config, seed=0)
    user = factors.user[fit.user[fit.item == 3]]  # the raters of item 3
    x = np.column_stack([user[:, :2], np.ones(len(user))])
    expected = np.linalg.inv(x.T @ x + (config.reg_0 + config.reg * len(x)) * np.eye(3))
    np.testing.assert_allclose(factors.item_covariance[3], expected, rtol=1e-9)
    x_3 = np.array([*factors.item[3, :2], 1.0])
    x_5 = np.array([*factors.user[5, :2], 1.0])
    spread = x_3 @ factors.user_covariance[5] @ x_3 + x_5 @ factors.item_covariance[3] @ x_5
    assert factors.variance()[5, 3] == pytest.approx(spread)


@pytest.mark.band
def test_u1_beats_biases_and_stays_in_its_band(ml100k):
    parts = split(ml100k, "u1")
    error = rmse(fit_svd(parts.train, SVDConfig(), seed=0).mean, parts.test)
    assert 0.915 < error < 0.93
    assert error < rmse(fit_bias(parts.train, BiasConfig(), seed=0).mean, parts.test) - 0.03
