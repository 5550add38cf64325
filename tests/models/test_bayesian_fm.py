import numpy as np
import pytest
from synthetic_ratings import rmse
from tiny_dataset import miniature_ratings

from recpolicy.data.splits import split
from recpolicy.models.bayesian_fm import BayesianFMConfig, features, fit_bayesian_fm, fold_draws, posterior, sample


def test_posterior_equals_the_samplers_own_predictions():
    from myfm import RelationBlock

    fit = split(miniature_ratings(0), "u1").train
    config = BayesianFMConfig(rank=4, sweeps=30)
    users, items = features(fit, config)
    regressor = sample(fit, users, items, config, seed=0)
    mean, std = posterior(fold_draws(regressor, users, items), (-np.inf, np.inf))
    rng = np.random.default_rng(0)
    user, item = rng.integers(fit.shape[0], size=200), rng.integers(fit.shape[1], size=200)
    blocks = [RelationBlock(user.tolist(), users.matrix), RelationBlock(item.tolist(), items.matrix)]
    np.testing.assert_allclose(mean[user, item], regressor.predict(None, blocks), atol=1e-4)
    empty = type(users.matrix)((200, 0))
    each = np.array([draw.predict_score(empty, blocks) for draw in regressor.predictor_.samples])
    assert len(each) == config.kept == 20
    np.testing.assert_allclose(std[user, item], each.std(axis=0), atol=1e-3)


def test_the_mean_is_of_clipped_draws_and_the_std_of_draws_as_drawn():
    fit = split(miniature_ratings(0), "u1").train
    config = BayesianFMConfig(rank=2, sweeps=12, samples=3)
    users, items = features(fit, config)
    draws = fold_draws(sample(fit, users, items, config, seed=0), users, items)
    each = np.stack(
        [
            draws.base[index] + user[:, :-1] @ item[:, :-1].T + user[:, -1:] + item[:, -1]
            for index, (user, item) in enumerate(zip(draws.user, draws.item, strict=True))
        ]
    )
    mean, std = posterior(draws, (2, 3))
    np.testing.assert_allclose(mean, each.clip(2, 3).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, each.std(axis=0), atol=1e-3)


def test_fitting_prints_and_warns_nothing(capfd):
    fit_bayesian_fm(miniature_ratings(0), BayesianFMConfig(rank=2, sweeps=5), seed=0)
    assert capfd.readouterr() == ("", "")


def test_attributes_help_where_they_matter():
    """In the miniature, items nobody rated are told apart by the taste of genders for genres only."""
    parts = split(miniature_ratings(0), "u1")
    with_attributes = fit_bayesian_fm(parts.train, BayesianFMConfig(sweeps=100), seed=0)
    without = fit_bayesian_fm(parts.train, BayesianFMConfig(sweeps=100, attributes=False), seed=0)
    assert rmse(with_attributes.mean, parts.test) < rmse(without.mean, parts.test)


@pytest.mark.band
def test_u1_is_in_its_band_and_its_spread_is_honest(ml100k):
    parts = split(ml100k, "u1")
    model = fit_bayesian_fm(parts.train, BayesianFMConfig(sweeps=60), seed=0)
    error = rmse(model.mean, parts.test)
    assert 0.87 < error < 0.895  # 300 sweeps: .884
    std = model.std[parts.test.user, parts.test.item]
    assert np.sqrt(model.noise_std**2 + np.mean(std**2)) == pytest.approx(error, abs=0.03)
