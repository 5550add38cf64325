"""What every rating model of the table must keep, whatever its method; a new model is tested by joining the table."""

import json

import numpy as np
import pytest
from synthetic_ratings import rank_two, rmse, table
from tiny_dataset import miniature_ratings

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ConfigError
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import split
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import RATING_MODELS, fit_rating_model

QUICK = {"bayesian_fm": {"sweeps": 40}}  # enough for the miniature
every_model = pytest.mark.parametrize("name", sorted(RATING_MODELS))


def quick_fit(fit: Ratings, name: str, seed: int = 0) -> RatingModel:
    return fit_rating_model(fit, name, QUICK.get(name), seed, cache=None)


@every_model
def test_predictions_lie_within_the_scale_and_carry_their_origin(name):
    fit = split(miniature_ratings(0), "u1").train
    model = quick_fit(fit, name, seed=3)
    assert model.mean.shape == model.std.shape == fit.shape
    assert model.mean.dtype == model.std.dtype == np.float32
    assert model.mean.min() >= 1
    assert model.mean.max() <= 5
    assert model.std.min() > 0
    assert (model.name, model.seed, model.train_digest, model.scale) == (name, 3, fit.digest, (1.0, 5.0))
    assert json.loads(json.dumps(model.config)) == as_dict(RATING_MODELS[name].config(**QUICK.get(name, {})))


@every_model
def test_same_seed_gives_the_same_numbers(name):
    fit = split(miniature_ratings(0), "u1").train
    first, second = quick_fit(fit, name), quick_fit(fit, name)
    np.testing.assert_array_equal(first.mean, second.mean)
    np.testing.assert_array_equal(first.std, second.std)
    assert first.noise_std == second.noise_std


@pytest.mark.parametrize("name", ["bayesian_fm", "svd"])
def test_another_seed_gives_other_numbers(name):
    fit = split(miniature_ratings(0), "u1").train
    assert not np.array_equal(quick_fit(fit, name, seed=0).mean, quick_fit(fit, name, seed=1).mean)


@every_model
def test_users_and_items_without_ratings_get_finite_predictions_with_larger_std(name):
    ratings = miniature_ratings(0)
    fit = ratings.take((ratings.user >= 5) & (ratings.item >= 5))
    model = quick_fit(fit, name)
    assert np.isfinite(model.mean).all()
    assert model.std[:, :5].mean() > model.std[5:, 5:].mean()
    if name != "item_mean":  # which knows no users
        assert model.std[:5].mean() > model.std[5:, 5:].mean()


@every_model
def test_a_table_without_attributes_is_enough(name):
    fit, _ = rank_two(seed=1, noise=0.3, users=30, items=20)
    assert np.isfinite(quick_fit(fit, name).mean).all()


@every_model
def test_a_handful_of_ratings_is_enough(name):
    few = table(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 4.0, 1.0]), (2, 3))
    model = quick_fit(few, name)
    assert np.isfinite(model.mean).all()
    assert model.noise_std > 0


@pytest.mark.parametrize("name", ["bias", "item_knn", "item_mean"])
def test_renumbering_users_changes_nothing_else(name):
    fit = split(miniature_ratings(0), "u1").train
    new_row = np.random.default_rng(0).permutation(fit.shape[0]).astype(np.int32)
    renumbered = table(new_row[fit.user], fit.item, fit.rating, fit.shape)
    before, after = quick_fit(fit, name), quick_fit(renumbered, name)
    np.testing.assert_allclose(after.mean[new_row], before.mean, atol=2e-4)
    assert after.noise_std == pytest.approx(before.noise_std, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "config"), [("svd", {"rank": 2, "reg": 0.01, "reg_0": 0.5}), ("bayesian_fm", {"rank": 2, "sweeps": 120})]
)
def test_planted_rank_two_matrix_is_recovered_to_its_noise(name, config):
    fit, test = rank_two(seed=0, noise=0.3)
    model = fit_rating_model(fit, name, config, cache=None)
    assert 0.27 < rmse(model.mean, test) < 0.35  # n = 1,000: the noise itself measures .3 +- .007
    assert model.noise_std == pytest.approx(0.3, abs=0.04)
    assert rmse(quick_fit(fit, "bias").mean, test) > 0.5


@pytest.mark.parametrize("name", ["bayesian_fm", "bias", "item_knn", "svd"])
def test_models_beat_the_item_mean_on_the_miniature(name):
    parts = split(miniature_ratings(0), "u1")
    assert rmse(quick_fit(parts.train, name).mean, parts.test) < rmse(
        quick_fit(parts.train, "item_mean").mean, parts.test
    )


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("bayesian_fm", {"rank": 0}),
        ("bayesian_fm", {"samples": 400}),
        ("bias", {"reg_user": -1}),
        ("item_knn", {"max_neighbors": 0}),
        ("item_knn", {"baseline": {"epochs": 0}}),
        ("item_mean", {"damping": float("nan")}),
        ("svd", {"reg_0": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name, config):
    with pytest.raises(ConfigError, match="expected"):
        fit_rating_model(miniature_ratings(0), name, config, cache=None)
