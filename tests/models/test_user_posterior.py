"""The posterior of one user, one rating at a time: equal to the fold-in of all ratings at once, in any order."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from posterior_folds import fold_ratings, rating_moments

from recpolicy.core.errors import DataError
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.fold_in import fold_in_users, rating_variance, user_prior
from recpolicy.models.user_posterior import (
    RatedItems,
    UserPosterior,
    outer_triangle,
    pack,
    pack_covariance,
    packed_size,
    prior_posterior,
    revise,
    trained_posterior,
    unpack,
    update,
)

RANK, ITEMS, USERS = 4, 25, 40


def shop(seed: int = 0, item_errors: bool = True) -> Embeddings:
    rng = np.random.default_rng(seed)
    return Embeddings(
        user=rng.normal(0.2, 0.5, (USERS, RANK)).astype(np.float32),
        item=rng.normal(0, 0.5, (ITEMS, RANK)).astype(np.float32),
        offset=rng.uniform(2.5, 3.5, ITEMS).astype(np.float32),
        scale=(1.0, 5.0), noise_std=0.8, explained=1.0,
        item_std=rng.uniform(0.1, 0.6, ITEMS).astype(np.float32) if item_errors else None,
    )  # fmt: skip


def exact(embeddings: Embeddings, item: np.ndarray, rating: np.ndarray) -> UserPosterior:
    """Bayesian linear regression by one inverse, in float64 throughout."""
    prior, variance = user_prior(embeddings), rating_variance(embeddings, item)
    x = embeddings.item[item].astype(np.float64)
    covariance = np.linalg.inv(prior.precision + (x / variance[:, np.newaxis]).T @ x)
    moment = prior.precision @ prior.mean + ((rating - embeddings.offset[item]) / variance) @ x
    return UserPosterior(covariance @ moment, covariance)


def test_one_rating_by_hand():
    # Mean 0, variance 2 and 1 without covariance; an item (1, 1) with rating 3 - offset 1 = 2, variance of a rating 1:
    # d = (2, 1), k = 1 / (1 + 3) = 1/4; mean (2, 1) * 2/4 = (1, 1/2); covariance less [[4, 2], [2, 1]] / 4.
    before = UserPosterior(np.zeros(2), np.diag([2.0, 1.0]))
    after = update(before, [1.0, 1.0], 2.0, 1.0)
    np.testing.assert_allclose(after.mean, [1.0, 0.5])
    np.testing.assert_allclose(after.covariance, [[1.0, -0.5], [-0.5, 0.75]])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(0, 30), errors=st.booleans())
def test_a_fold_equals_one_regression_in_any_order(seed, count, errors):
    rng = np.random.default_rng(seed)
    embeddings = shop(seed, errors)
    items, prior = RatedItems.from_embeddings(embeddings), prior_posterior(embeddings)
    item, rating = rng.integers(ITEMS, size=count), rng.integers(1, 6, count).astype(np.float64)  # items may repeat
    folded, wanted = fold_ratings(prior, items, item, rating), exact(embeddings, item, rating)
    order = rng.permutation(count)
    shuffled = fold_ratings(prior, items, item[order], rating[order])
    for posterior in (folded, shuffled):
        np.testing.assert_allclose(posterior.mean, wanted.mean, atol=1e-9)
        np.testing.assert_allclose(posterior.covariance, wanted.covariance, atol=1e-9)
        np.testing.assert_array_equal(posterior.covariance, posterior.covariance.T)
    at_once = fold_in_users(embeddings, np.zeros(count, int), item, rating, 1)  # float32
    np.testing.assert_allclose(folded.mean, at_once.embedding[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(folded.covariance, at_once.covariance[0], rtol=1e-5, atol=1e-6)


def test_the_same_order_gives_the_same_bits_alone_in_parts_and_in_a_batch():
    embeddings, rng = shop(), np.random.default_rng(1)
    items, prior = RatedItems.from_embeddings(embeddings), prior_posterior(embeddings)
    item, rating = rng.integers(ITEMS, size=(6, 20)), rng.integers(1, 6, (6, 20)).astype(np.float64)
    single = [fold_ratings(prior, items, *rows) for rows in zip(item, rating, strict=True)]
    batch = UserPosterior(np.repeat(prior.mean[np.newaxis], 6, 0), np.repeat(prior.covariance[np.newaxis], 6, 0))
    for step in range(20):
        rows = item[:, step]
        batch = update(batch, items.x[rows], rating[:, step] - items.offset[rows], items.variance[rows])
    for user in range(6):
        begun = unpack(pack(fold_ratings(prior, items, item[user, :7], rating[user, :7])), RANK)  # kept, then continued
        resumed = fold_ratings(begun, items, item[user, 7:], rating[user, 7:])
        for other in (resumed, UserPosterior(batch.mean[user], batch.covariance[user])):
            np.testing.assert_array_equal(other.mean, single[user].mean)
            np.testing.assert_array_equal(other.covariance, single[user].covariance)


def test_a_reward_in_parts_ends_where_the_whole_reward_ends():
    """A first part of 2, then another rating, then 2.5 more: as 4.5 at once."""
    embeddings = shop()
    items, prior = RatedItems.from_embeddings(embeddings), prior_posterior(embeddings)

    def rate(posterior: UserPosterior, item: int, rating: float) -> UserPosterior:
        return update(posterior, items.x[item], rating - items.offset[item], items.variance[item])

    whole = rate(rate(prior, 3, 4.5), 8, 1.0)
    first = rate(rate(prior, 3, 2.0), 8, 1.0)
    parts = revise(first, items.x[3], 2.5, items.variance[3])
    assert np.abs(first.mean - whole.mean).max() > 0.01
    np.testing.assert_allclose(parts.mean, whole.mean, atol=1e-12)
    np.testing.assert_array_equal(parts.covariance, first.covariance)
    np.testing.assert_allclose(parts.covariance, whole.covariance, atol=1e-12)


def test_known_users_keep_their_embedding_and_their_ratings_make_them_surer():
    embeddings, rng = shop(), np.random.default_rng(2)
    user, item = np.repeat(np.arange(1, USERS), 5), rng.integers(ITEMS, size=(USERS - 1) * 5)
    shuffled = rng.permutation(len(user))
    posterior = trained_posterior(embeddings, user[shuffled], item[shuffled])
    np.testing.assert_array_equal(posterior.mean, embeddings.user)
    np.testing.assert_allclose(posterior.covariance[0], prior_posterior(embeddings).covariance, atol=1e-9)  # no rating
    for row in (1, 17, USERS - 1):
        wanted = exact(embeddings, item[user == row], np.ones(5))
        np.testing.assert_allclose(posterior.covariance[row], wanted.covariance, atol=1e-9)
    assert (np.linalg.eigvalsh(posterior.covariance[1:])[:, -1] < np.linalg.eigvalsh(posterior.covariance[0])[-1]).all()


def test_more_users_than_one_block_are_the_users_one_by_one(monkeypatch):
    embeddings, rng = shop(), np.random.default_rng(3)
    user, item = rng.integers(USERS, size=300), rng.integers(ITEMS, size=300)
    whole = trained_posterior(embeddings, user, item)
    monkeypatch.setattr("recpolicy.models.fold_in._USERS_AT_ONCE", 7)
    np.testing.assert_allclose(trained_posterior(embeddings, user, item).covariance, whole.covariance, atol=1e-12)


def test_expected_ratings_and_their_variances():
    embeddings = shop()
    items = RatedItems.from_embeddings(embeddings)
    posterior = fold_ratings(prior_posterior(embeddings), items, np.array([1, 2]), np.array([5.0, 1.0]))
    mean, variance = rating_moments(posterior, items)
    item, error = embeddings.item.astype(np.float64), embeddings.item_std.astype(np.float64)
    np.testing.assert_allclose(mean, embeddings.offset + item @ posterior.mean)
    np.testing.assert_allclose(variance, [x @ posterior.covariance @ x for x in item] + error**2)
    known = trained_posterior(embeddings, np.array([3]), np.array([4]))
    means, variances = rating_moments(known, items)
    assert means.shape == variances.shape == (USERS, ITEMS)
    one = rating_moments(UserPosterior(known.mean[3], known.covariance[3]), items)
    np.testing.assert_allclose(means[3], one[0])
    np.testing.assert_allclose(variances[3], one[1])
    without = RatedItems.from_embeddings(dataclasses.replace(embeddings, item_std=None))
    np.testing.assert_allclose(rating_moments(posterior, without)[1], variance - error**2)


def test_packed_posteriors_are_read_back_bit_for_bit():
    embeddings = shop()
    posterior = trained_posterior(embeddings, np.array([0, 0, 5]), np.array([1, 2, 3]))
    packed = pack(posterior)
    assert packed.shape == (USERS, packed_size(RANK)) == (USERS, 4 + 10)
    again = unpack(packed, RANK)
    np.testing.assert_array_equal(again.mean, posterior.mean)
    np.testing.assert_array_equal(again.covariance, posterior.covariance)
    x = embeddings.item.astype(np.float64)
    quadratic = pack_covariance(posterior.covariance) @ outer_triangle(x).T
    np.testing.assert_allclose(quadratic[5], [row @ posterior.covariance[5] @ row for row in x])


@pytest.mark.parametrize(
    ("item", "rating", "message"),
    [([0], [5.5], r"rating 5\.5 is not in 1\.\.5"), ([0], [np.nan], "rating nan"), ([25], [3.0], r"item rows must be")],
)
def test_ratings_off_the_scale_and_unknown_items_are_refused(item, rating, message):
    embeddings = shop()
    with pytest.raises(DataError, match=message):
        fold_ratings(prior_posterior(embeddings), RatedItems.from_embeddings(embeddings), item, rating)


def test_wrong_shapes_are_refused():
    with pytest.raises(DataError, match="expected \\[D\\] and"):
        UserPosterior(np.zeros(3), np.eye(4))
    with pytest.raises(DataError, match="4 directions need 14"):
        unpack(np.zeros(13), 4)
