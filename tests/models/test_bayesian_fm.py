"""The factorization machines against the sampler's own predictions, and their mean on real and planted ratings."""

import subprocess
from dataclasses import replace

import numpy as np
import pytest
from synthetic_ratings import rank_two, rmse, table
from tiny_dataset import miniature_ratings

from recpolicy.data.splits import split
from recpolicy.models import fm_process
from recpolicy.models.bayesian_fm import BayesianFMConfig, fit_bayesian_fm, make_design
from recpolicy.models.embeddings import embed
from recpolicy.models.fm_gibbs import Chain, fit_gaussian, fit_ordered_probit, fold_draws, posterior, sample

CHAIN = Chain(rank=4, sweeps=30, kept=20, seed=0)


def make(config=None):
    train = split(miniature_ratings(0), "u1").train
    return train, make_design(train, config or BayesianFMConfig())


def blocks_of(design, user, item):
    from myfm import RelationBlock

    return [RelationBlock(user.tolist(), design.users.matrix), RelationBlock(item.tolist(), design.items.matrix)]


def some_cells(shape):
    rng = np.random.default_rng(0)
    return rng.integers(shape[0], size=200), rng.integers(shape[1], size=200)


def test_posterior_equals_the_samplers_own_predictions():
    train, design = make()
    regressor = sample(design, CHAIN)
    mean, std = posterior(fold_draws(regressor, design.users, design.items), (-np.inf, np.inf))
    user, item = some_cells(train.shape)
    blocks = blocks_of(design, user, item)
    np.testing.assert_allclose(mean[user, item], regressor.predict(None, blocks), atol=1e-4)
    empty = type(design.users.matrix)((200, 0))
    each = np.array([draw.predict_score(empty, blocks) for draw in regressor.predictor_.samples])
    assert len(each) == CHAIN.kept == 20
    np.testing.assert_allclose(std[user, item], each.std(axis=0), atol=1e-3)


def test_the_ordered_probit_expects_what_the_sampler_itself_does():
    train, design = make()
    values = np.arange(1.0, 6.0)
    fitted, levels = fit_ordered_probit(design, values, CHAIN)
    model = sample(replace(design, rating=design.rating - 1), CHAIN, ordinal=True)
    user, item = some_cells(train.shape)
    blocks = blocks_of(design, user, item)
    expected = model.predict_proba(None, blocks) @ values
    np.testing.assert_allclose(fitted.mean[user, item], expected, atol=1e-3)
    empty = type(design.users.matrix)((200, 0))
    each = np.array([draw.oprobit_predict_proba(empty, blocks, 0) @ values for draw in model.predictor_.samples])
    np.testing.assert_allclose(fitted.std[user, item], each.std(axis=0), atol=1e-3)
    np.testing.assert_allclose(levels.cuts, model.cutpoint_samples.mean(axis=0))


def test_the_mean_is_of_clipped_draws_and_the_std_of_draws_as_drawn():
    _, design = make()
    draws = fold_draws(sample(design, Chain(rank=2, sweeps=12, kept=3, seed=0)), design.users, design.items)
    each = np.stack(
        [
            draws.base[index] + user[:, :-1] @ item[:, :-1].T + user[:, -1:] + item[:, -1]
            for index, (user, item) in enumerate(zip(draws.user, draws.item, strict=True))
        ]
    )
    mean, std = posterior(draws, (2, 3))
    np.testing.assert_allclose(mean, each.clip(2, 3).mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(std, each.std(axis=0), atol=1e-3)


def test_the_model_is_the_mean_of_both_and_embeddings_come_from_the_gaussian():
    train, design = make()
    config = BayesianFMConfig(rank=4, sweeps=30)
    pair, gaussian = (fit_bayesian_fm(train, replace(config, ordinal=ordinal), seed=0) for ordinal in (True, False))
    probit, levels = fit_ordered_probit(design, np.arange(1.0, 6.0), CHAIN)
    np.testing.assert_allclose(pair.mean, (gaussian.mean + probit.mean) / 2, atol=1e-5)
    between = ((gaussian.mean - probit.mean) / 2) ** 2
    np.testing.assert_allclose(pair.std**2, (gaussian.std**2 + probit.std**2) / 2 + between, rtol=1e-4)
    np.testing.assert_array_equal(pair.linear, gaussian.mean)
    assert (pair.levels, gaussian.levels, pair.noise_std) == (levels, None, gaussian.noise_std)
    np.testing.assert_array_equal(embed(pair, 5).item, embed(gaussian, 5).item)


def test_levels_are_those_of_the_ratings_half_stars_and_clicks_included():
    train, _ = make()
    config = BayesianFMConfig(rank=2, sweeps=15)
    halves = replace(train, rating=(train.rating / 2).astype(np.float32), scale=(0.5, 2.5))
    assert fit_bayesian_fm(halves, config, seed=0).levels.values == (0.5, 1.0, 1.5, 2.0, 2.5)
    clicks = replace(train, rating=(train.rating > 3).astype(np.float32), scale=(0.0, 1.0))
    model = fit_bayesian_fm(clicks, config, seed=0)
    assert model.levels.values == (0.0, 1.0)
    assert 0 <= model.mean.min() < model.mean.max() <= 1


def test_a_scale_of_many_levels_falls_back_to_the_gaussian_alone():
    train, _ = rank_two(0, 0.3)
    model = fit_bayesian_fm(train, BayesianFMConfig(rank=2, sweeps=15), seed=0)
    assert model.levels is None
    np.testing.assert_array_equal(model.linear, model.mean)
    one = table(train.user, train.item, np.full(len(train), 3.0), train.shape)
    assert fit_bayesian_fm(one, BayesianFMConfig(rank=2, sweeps=15), seed=0).levels is None


def test_a_second_process_fits_the_same_gaussian_and_a_broken_one_is_replaced(monkeypatch, caplog):
    train, design = make()
    here = fit_gaussian(design, CHAIN, train.scale)
    monkeypatch.setattr(fm_process, "_SMALL", 0)
    with fm_process.gaussian_alongside(design, CHAIN, train.scale) as get:
        there = get()
    np.testing.assert_array_equal(there.mean, here.mean)
    np.testing.assert_array_equal(there.std, here.std)
    assert there.noise_std == here.noise_std
    assert not caplog.records
    monkeypatch.setattr(fm_process, "__name__", "recpolicy.no_such_module")
    with fm_process.gaussian_alongside(design, CHAIN, train.scale) as get:
        np.testing.assert_array_equal(get().mean, here.mean)
    assert "no_such_module" in caplog.text


def test_the_second_process_ends_with_the_block(monkeypatch):
    train, design = make()
    monkeypatch.setattr(fm_process, "_SMALL", 0)
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **words: started.append(popen(*args, **words)) or started[0])
    with (
        pytest.raises(KeyboardInterrupt),
        fm_process.gaussian_alongside(design, replace(CHAIN, sweeps=100_000), train.scale),
    ):
        raise KeyboardInterrupt
    assert started[0].poll() is not None


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
    assert 0.87 < error < 0.892  # 300 sweeps: .884
    cells = parts.test.user, parts.test.item
    spread = model.levels.spread(model.mean[cells], model.std[cells])
    assert np.sqrt(np.mean(spread**2)) == pytest.approx(error, abs=0.03)
    covered = np.abs(model.mean[cells] - parts.test.rating) <= 1.96 * spread
    assert 0.93 < covered.mean() < 0.97  # 300 sweeps: .948
