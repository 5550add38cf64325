import dataclasses

import numpy as np
import pytest
from tiny_dataset import miniature_ratings

from recpolicy.core import memory
from recpolicy.core.errors import ConfigError, DataError, MemoryLimitError
from recpolicy.models import rating_models
from recpolicy.models.bias import BiasConfig
from recpolicy.models.embeddings import embed
from recpolicy.models.rating_models import RATING_MODELS, default_cache, fit_rating_model
from recpolicy.models.svd import SVDConfig


@pytest.fixture
def counted(monkeypatch):
    """Fits of the bias model that were really made."""
    fits = []
    kind = rating_models.RATING_MODELS["bias"]

    def count(fit, config, seed):
        fits.append(seed)
        return kind.fit(fit, config, seed)

    counting = {"bias": dataclasses.replace(kind, fit=count)}
    monkeypatch.setattr(rating_models, "RATING_MODELS", {**rating_models.RATING_MODELS, **counting})
    return fits


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"no rating model named 'bayesian'\. Did you mean 'bayesian_fm'\?"):
        fit_rating_model(miniature_ratings(0), "bayesian", cache=None)
    with pytest.raises(ConfigError, match=r"no setting named 'epoch'\. Did you mean 'epochs'\?"):
        fit_rating_model(miniature_ratings(0), "bias", {"epoch": 3}, cache=None)


def test_a_config_of_another_model_is_refused():
    with pytest.raises(ConfigError, match="config is SVDConfig; expected BiasConfig"):
        fit_rating_model(miniature_ratings(0), "bias", SVDConfig(), cache=None)


def test_an_empty_table_is_refused():
    ratings = miniature_ratings(0)
    with pytest.raises(DataError, match="no ratings to fit"):
        fit_rating_model(ratings.take(np.zeros(len(ratings), bool)), "bias", cache=None)


@pytest.mark.parametrize("model", RATING_MODELS)
def test_users_and_items_that_do_not_fit_are_one_line_before_the_fit(model, counted, monkeypatch):
    ratings = miniature_ratings(0)
    users, items = ratings.shape
    monkeypatch.setattr(memory, "available_bytes", lambda: users * items * 15)
    with pytest.raises(MemoryLimitError, match=rf"rating model {model} of {users} users x {items} items need about"):
        fit_rating_model(ratings, model, cache=None)
    assert counted == []


def test_embeddings_that_do_not_fit_are_one_line(monkeypatch):
    model = fit_rating_model(miniature_ratings(0), "bias", cache=None)
    monkeypatch.setattr(memory, "available_bytes", lambda: 1_000)
    with pytest.raises(MemoryLimitError, match=r"^embeddings of \d+ users x \d+ items need about"):
        embed(model, 2)


def test_mapping_and_dataclass_mean_the_same():
    ratings = miniature_ratings(0)
    by_mapping = fit_rating_model(ratings, "bias", {"epochs": 2}, cache=None)
    by_dataclass = fit_rating_model(ratings, "bias", BiasConfig(epochs=2), cache=None)
    np.testing.assert_array_equal(by_mapping.mean, by_dataclass.mean)


def test_the_same_fit_is_loaded_the_second_time(counted, tmp_path):
    first = fit_rating_model(miniature_ratings(0), "bias", seed=4, cache=tmp_path)
    second = fit_rating_model(miniature_ratings(0), "bias", seed=4, cache=tmp_path)
    assert counted == [4]
    np.testing.assert_array_equal(first.mean, second.mean)


def test_whatever_determines_a_fit_makes_another_one(counted, tmp_path):
    ratings = miniature_ratings(0)
    other_genres = dataclasses.replace(ratings, items=ratings.items.assign(genres="Western"))
    other_users = dataclasses.replace(ratings, users=ratings.users.assign(gender="F"))
    for table in (ratings, ratings.take(np.arange(1000)), other_genres, other_users, miniature_ratings(1)):
        fit_rating_model(table, "bias", cache=tmp_path)
    fit_rating_model(ratings, "bias", {"epochs": 3}, cache=tmp_path)
    fit_rating_model(ratings, "bias", seed=1, cache=tmp_path)
    assert len(counted) == 7


def test_a_damaged_cache_entry_is_fitted_again_with_a_warning(counted, tmp_path, caplog):
    fit_rating_model(miniature_ratings(0), "bias", cache=tmp_path)
    next(tmp_path.rglob("arrays.npz")).write_bytes(b"cut short")
    fit_rating_model(miniature_ratings(0), "bias", cache=tmp_path)
    assert "fitted again" in caplog.text
    fit_rating_model(miniature_ratings(0), "bias", cache=tmp_path)
    assert len(counted) == 2


def test_a_cache_that_cannot_be_written_costs_a_warning_only(tmp_path, caplog):
    (tmp_path / "rating-models").write_text("a file where a folder should be")
    model = fit_rating_model(miniature_ratings(0), "bias", cache=tmp_path)
    assert model.name == "bias"
    assert "not cached" in caplog.text


def test_no_cache_writes_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RECPOLICY_CACHE", str(tmp_path))
    fit_rating_model(miniature_ratings(0), "bias", cache=None)
    assert list(tmp_path.iterdir()) == []


def test_the_default_cache_is_the_one_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("RECPOLICY_CACHE", str(tmp_path / "here"))
    fit_rating_model(miniature_ratings(0), "bias")
    assert len(list((tmp_path / "here" / "rating-models").iterdir())) == 1
    monkeypatch.delenv("RECPOLICY_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache() == tmp_path / ".cache" / "recpolicy"
