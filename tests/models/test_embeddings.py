import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_ratings import rmse

from recpolicy.core.errors import ConfigError
from recpolicy.data.splits import split
from recpolicy.models.embeddings import embed
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.svd import SVDConfig, fit_svd


def model_of(mean):
    mean = np.asarray(mean, np.float32)
    return RatingModel("made", mean, np.full_like(mean, 0.1), 0.9, (1.0, 5.0), "digest", 0, {})


def random_model(seed, users, items):
    return model_of(np.random.default_rng(seed).uniform(1, 5, (users, items)))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), users=st.integers(2, 12), items=st.integers(2, 12))
def test_full_rank_embeddings_give_back_the_ratings(seed, users, items):
    model = random_model(seed, users, items)
    embeddings = embed(model, min(users, items))
    np.testing.assert_allclose(embeddings.ratings(), model.mean, atol=2e-5)
    assert embeddings.explained == pytest.approx(1, abs=1e-6)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), users=st.integers(4, 12), items=st.integers(4, 12), rank=st.integers(1, 3))
def test_conventions_make_embeddings_unique(seed, users, items, rank):
    embeddings = embed(random_model(seed, users, items), rank)
    assert np.mean(np.sum(embeddings.user.astype(float) ** 2, axis=1)) == pytest.approx(1, abs=1e-5)
    largest = np.argmax(np.abs(embeddings.item), axis=0)
    assert np.all(embeddings.item[largest, np.arange(rank)] > 0)
    strength = np.linalg.norm(embeddings.item, axis=0)
    user_strength = np.linalg.norm(embeddings.user, axis=0)
    assert np.all(np.diff(strength * user_strength) <= 1e-4)
    np.testing.assert_allclose(embeddings.item.T @ embeddings.item, np.diag(strength**2), atol=1e-3)


def test_truncation_is_the_best_of_its_rank():
    model = random_model(0, 9, 14)
    centred = model.mean.astype(float) - model.mean.mean(axis=0, dtype=float)
    singular = np.linalg.svd(centred, compute_uv=False)
    embeddings = embed(model, 3)
    left_over = centred - embeddings.user.astype(float) @ embeddings.item.T
    assert np.sum(left_over**2) == pytest.approx(np.sum(singular[3:] ** 2), rel=1e-4)
    assert embeddings.explained == pytest.approx(np.sum(singular[:3] ** 2) / np.sum(singular**2), rel=1e-5)


def test_directions_that_do_not_vary_are_zero():
    embeddings = embed(model_of(np.add.outer([0.0, 1, 2, 0.5], [1.0, 1.5, 2])), 3)  # centred: rank 1
    assert np.all(embeddings.user[:, 1:] == 0)
    assert np.all(embeddings.item[:, 1:] == 0)
    constant = embed(model_of(np.full((4, 3), 3.0)), 2)
    np.testing.assert_allclose(constant.ratings(), 3)
    assert constant.explained == 1


@pytest.mark.parametrize("rank", [0, 4])
def test_ranks_out_of_range_are_refused(rank):
    with pytest.raises(ConfigError, match=r"it must be 1\.\.3"):
        embed(random_model(0, 5, 3), rank)


@pytest.mark.band
def test_twenty_directions_lose_almost_nothing_on_u1(ml100k):
    parts = split(ml100k, "u1")
    model = fit_svd(parts.train, SVDConfig(), seed=0)
    assert rmse(embed(model, 20).ratings(), parts.test) == pytest.approx(rmse(model.mean, parts.test), abs=0.002)
