import dataclasses

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_ratings import rmse, table

from recpolicy.core.errors import DataError
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import genre_matrix
from recpolicy.models.bayesian_fm import BayesianFMConfig, fit_bayesian_fm
from recpolicy.models.embeddings import Embeddings, embed
from recpolicy.models.fold_in import fold_in_items, fold_in_user, fold_in_users, genre_prior, user_prior
from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean
from recpolicy.models.svd import SVDConfig, fit_svd


def made(seed=0, users=50, items=30, rank=3, noise=0.5):
    rng = np.random.default_rng(seed)
    return Embeddings(
        user=rng.normal(0.2, 0.5, (users, rank)).astype(np.float32),
        item=rng.normal(0, 0.5, (items, rank)).astype(np.float32),
        offset=rng.uniform(2.5, 3.5, items).astype(np.float32),
        scale=(1.0, 5.0),
        noise_std=noise,
        explained=1.0,
    )


def test_no_ratings_give_the_prior():
    embeddings = made()
    embedding, covariance = fold_in_user(embeddings, [], [])
    np.testing.assert_allclose(embedding, embeddings.user.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(covariance, np.cov(embeddings.user.T, bias=True) * 1.5, atol=1e-5)


def test_one_direction_by_hand():
    # Prior mean 0, variance 1.5 * 1; one rating 4 of an item with offset 3 and embedding 2, noise 1:
    # precision 1/1.5 + 4 = 14/3, mean (2 * 1) / (14/3) = 3/7.
    embeddings = Embeddings(
        np.array([[-1.0], [1.0]], np.float32),
        np.array([[2.0]], np.float32),
        np.array([3.0], np.float32),
        (1, 5),
        1.0,
        1.0,
    )
    embedding, covariance = fold_in_user(embeddings, [0], [4.0])
    assert embedding[0] == pytest.approx(3 / 7, rel=1e-4)
    assert covariance[0, 0] == pytest.approx(3 / 14, rel=1e-4)


def test_error_of_an_item_counts_as_noise_and_stays_in_the_std():
    # As above, with an item error of variance 3: a rating has variance 4, precision 1/1.5 + 4/4 = 5/3, mean
    # (2 * 1 / 4) / (5/3) = 3/10; the expected rating has variance 2^2 * 3/5 + 3.
    embeddings = Embeddings(
        np.array([[-1.0], [1.0]], np.float32), np.array([[2.0]], np.float32), np.array([3.0], np.float32), (1, 5), 1.0,
        1.0, item_std=np.sqrt([3.0]).astype(np.float32),
    )  # fmt: skip
    folded = fold_in_users(embeddings, np.array([0]), np.array([0]), [4.0], 1)
    assert folded.embedding[0, 0] == pytest.approx(3 / 10, rel=1e-4)
    assert folded.covariance[0, 0, 0] == pytest.approx(3 / 5, rel=1e-4)
    mean, std = folded.ratings(embeddings)
    assert mean[0, 0] == pytest.approx(3.6, rel=1e-4)
    assert std[0, 0] == pytest.approx(np.sqrt(4 * 3 / 5 + 3), rel=1e-4)


def small_shop(seed, users=120, items=80, per=25):
    """Half stars of 100 users, and of 20 hidden ones: biases, three tastes and noise of .5; 25 ratings each."""
    rng = np.random.default_rng(seed)
    taste, nature = rng.normal(size=(users, 3)), rng.normal(size=(items, 3))
    expected = 3 + rng.normal(0, 0.4, (users, 1)) + rng.normal(0, 0.6, items) + 0.6 * taste @ nature.T / np.sqrt(3)
    rated = np.argsort(rng.random(expected.shape), axis=1)[:, :per]  # [U, per]
    noisy = np.take_along_axis(expected, rated, axis=1) + rng.normal(0, 0.5, rated.shape)
    stars = np.clip(np.round(2 * noisy) / 2, 0.5, 5)
    user = np.arange(100).repeat(per)
    frame = pd.DataFrame({"user": user, "item": rated[:100].ravel(), "rating": stars[:100].ravel()})
    return load_ratings(frame, scale=(0.5, 5)), rated[100:], stars[100:]


def test_two_ratings_of_a_small_table_do_not_move_a_user_to_the_ends():
    """With the items' errors, new users of small tables are predicted better, their std holds, and they move less.

    Means over three tables, each with 20 hidden users of 2 ratings and 23 to predict; the last figure is the largest
    move of an expected rating by 5 stars for one item and half a star for another.
    """
    error, unsure, moved = [], [], []
    for seed in range(3):
        ratings, rated, stars = small_shop(seed)
        whole = embed(fit_bayesian_fm(ratings, BayesianFMConfig(sweeps=60, ordinal=False), seed=0), 20)
        for embeddings in (whole, dataclasses.replace(whole, item_std=None)):
            user = np.arange(20).repeat(2)
            folded = fold_in_users(embeddings, user, rated[:, :2].ravel(), stars[:, :2].ravel(), 20)
            mean, std = folded.ratings(embeddings)
            surprise = np.take_along_axis(mean, rated[:, 2:], 1) - stars[:, 2:]
            spread = np.take_along_axis(std, rated[:, 2:], 1) ** 2 + embeddings.noise_std**2
            error.append(np.sqrt(np.mean(surprise**2)))
            unsure.append(np.mean(surprise**2 / spread))
            ends = fold_in_users(embeddings, np.zeros(2, int), np.array([1, 2]), [5.0, 0.5], 1).embedding[0]
            moved.append(np.abs(embeddings.item @ (ends - embeddings.user.mean(axis=0))).max())
    with_errors, without = (np.mean([error[k::2], unsure[k::2], moved[k::2]], axis=1) for k in (0, 1))
    assert with_errors[0] < without[0]
    assert 0.6 < with_errors[1] < 1.0 < without[1]
    assert with_errors[2] < 0.9 * without[2]


def test_many_ratings_without_noise_recover_the_user():
    embeddings = made(noise=0.01)
    truth = np.array([0.4, -0.3, 0.1])
    ratings = embeddings.offset + embeddings.item @ truth
    embedding, _ = fold_in_user(embeddings, np.arange(30), ratings)
    np.testing.assert_allclose(embedding, truth, atol=1e-3)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**16), count=st.integers(1, 5), ratings=st.integers(0, 40))
def test_a_batch_equals_its_users_one_by_one_in_any_order(seed, count, ratings):
    rng = np.random.default_rng(seed)
    embeddings = made(seed)
    user, item = rng.integers(count, size=ratings), rng.integers(30, size=ratings)  # an item may come twice
    rating = rng.uniform(1, 5, ratings)
    batch = fold_in_users(embeddings, user, item, rating, count)
    for row in range(count):
        mine = rng.permutation(np.flatnonzero(user == row))
        embedding, covariance = fold_in_user(embeddings, item[mine], rating[mine])
        np.testing.assert_allclose(batch.embedding[row], embedding, atol=1e-5)
        np.testing.assert_allclose(batch.covariance[row], covariance, atol=1e-5)
    assert np.all(np.linalg.eigvalsh(batch.covariance) > 0)
    mean, std = batch.ratings(embeddings)
    assert mean.shape == std.shape == (count, 30)
    assert 1 <= mean.min() <= mean.max() <= 5


def test_each_rating_makes_surer():
    embeddings = made()
    rng = np.random.default_rng(0)
    spread = [np.trace(fold_in_user(embeddings, rng.integers(30, size=n), np.full(n, 3.0))[1]) for n in (0, 1, 5, 25)]
    assert np.all(np.diff(spread) < 0)


@pytest.mark.parametrize(
    ("items", "ratings", "message"),
    [
        ([0], [5.5], r"rating 5\.5 is not in 1\.\.5"),
        ([0], [float("nan")], "rating nan is not in"),
        ([30], [3.0], r"item rows must be 0\.\.29; found 30\.\.30"),
        ([-1], [3.0], r"item rows must be 0\.\.29"),
        ([0, 1], [3.0], "as many of each"),
    ],
)
def test_impossible_ratings_are_refused(items, ratings, message):
    with pytest.raises(DataError, match=message):
        fold_in_user(made(), items, ratings)


def test_items_that_genres_explain_are_recovered():
    rng = np.random.default_rng(0)
    genres = (rng.random((200, 6)) < 0.3).astype(np.float32)
    truth = rng.normal(0, 0.3, (6, 4))  # genres -> offset and 3 directions
    told = genres @ truth
    embeddings = dataclasses.replace(
        made(), item=told[:, 1:].astype(np.float32), offset=(3 + told[:, 0]).astype(np.float32)
    )
    new = fold_in_items(genre_prior(embeddings, genres), np.eye(6, dtype=np.float32))
    np.testing.assert_allclose(new.embedding, truth[:, 1:], atol=0.03)
    np.testing.assert_allclose(new.offset, 3 + truth[:, 0], atol=0.03)
    assert new.std.max() < 0.03


def test_std_of_new_items_is_what_genres_leave_open():
    rng = np.random.default_rng(0)
    genres = (rng.random((500, 4)) < 0.4).astype(np.float32)
    embeddings = dataclasses.replace(
        made(), item=rng.normal(0, 0.2, (500, 3)).astype(np.float32), offset=rng.normal(3, 0.4, 500).astype(np.float32)
    )
    second_moment = np.mean(np.sum(embeddings.user.astype(float) ** 2, axis=1))
    expected = np.sqrt(0.4**2 + 0.2**2 * second_moment)
    assert fold_in_items(genre_prior(embeddings, genres), genres[:2]).std[0] == pytest.approx(expected, rel=0.05)


def test_genres_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="29 rows of genres for 30 items"):
        genre_prior(made(), np.zeros((29, 4)))
    with pytest.raises(DataError, match=r"expected \[M, 4\]"):
        fold_in_items(genre_prior(made(), np.zeros((30, 4))), np.zeros((2, 5)))


@pytest.mark.parametrize(("noise", "gain"), [(0.9, 0.05), (0.4, 0.15)])
def test_two_ratings_on_small_data_help_as_much_as_their_noise_allows(noise, gain):
    """120 users, 80 items, preferences of rank 3, half stars; 200 new users with two ratings each.

    Where ratings have little noise, two of them move the estimates far, and rightly so: errors fall, and 95 % intervals
    cover. Measured: error .89 to .80 (noise .9) and .88 to .65 (.4), coverage .950 and .958.
    """
    rng = np.random.default_rng(0)
    users, items, new = 120, 80, 200
    taste, kind = rng.normal(size=(users + new, 3)), rng.normal(size=(items, 3))
    expected = np.clip(3.2 + rng.normal(0, 0.5, items) + taste @ kind.T / np.sqrt(3), 0.5, 5)
    ratings = np.clip(np.round(2 * (expected + rng.normal(0, noise, expected.shape))) / 2, 0.5, 5)
    user, item = np.nonzero(rng.random((users, items)) < 0.4)
    train = dataclasses.replace(table(user, item, ratings[user, item], (users, items)), scale=(0.5, 5.0))
    embeddings = embed(fit_bayesian_fm(train, BayesianFMConfig(sweeps=60, ordinal=False), seed=0), 20)
    who = np.repeat(np.arange(new), 2)
    rated = np.concatenate([rng.choice(items, 2, replace=False) for _ in range(new)])
    mean, std = fold_in_users(embeddings, who, rated, ratings[users + who, rated], new).ratings(embeddings)
    prior, _ = fold_in_users(embeddings, who[:0], rated[:0], [], new).ratings(embeddings)
    before, after = (np.sqrt(np.mean(np.square(expected[users:] - estimate))) for estimate in (prior, mean))
    assert after < before - gain
    inside = np.abs(ratings[users:] - mean) <= 1.96 * np.sqrt(std**2 + embeddings.noise_std**2)
    assert 0.92 < inside.mean() < 0.98


@pytest.mark.band
def test_ten_ratings_of_a_hidden_user_beat_the_item_mean(ml100k):
    hidden = np.zeros(ml100k.shape[0], bool)
    hidden[np.random.default_rng(0).permutation(len(hidden))[:200]] = True
    fit, new = ml100k.take(~hidden[ml100k.user]), ml100k.take(hidden[ml100k.user])
    place = np.array([np.sum(new.user[:row] == user) for row, user in enumerate(new.user)])  # file order
    known, test = new.take(place < 10), new.take(place >= 20)
    embeddings = embed(fit_svd(fit, SVDConfig(), seed=0), 20)
    folded = fold_in_users(embeddings, known.user, known.item, known.rating, ml100k.shape[0])
    mean, _ = folded.ratings(embeddings)
    by_prior = np.clip(embeddings.item @ user_prior(embeddings).mean + embeddings.offset, 1, 5)
    item_mean = fit_item_mean(fit, ItemMeanConfig(), seed=0).mean
    assert rmse(mean, test) < rmse(item_mean, test) - 0.03
    assert rmse(mean, test) < rmse(np.tile(by_prior, (ml100k.shape[0], 1)), test) - 0.03


@pytest.mark.band
def test_genres_of_new_items_beat_the_global_mean(ml100k):
    hidden = np.zeros(ml100k.shape[1], bool)
    hidden[np.random.default_rng(0).permutation(len(hidden))[:300]] = True
    fit, test = ml100k.take(~hidden[ml100k.item]), ml100k.take(hidden[ml100k.item])
    embeddings = embed(fit_svd(fit, SVDConfig(), seed=0), 20)
    _, genres = genre_matrix(ml100k.items)
    seen = dataclasses.replace(embeddings, item=embeddings.item[~hidden], offset=embeddings.offset[~hidden])
    new = fold_in_items(genre_prior(seen, genres[~hidden]), genres[hidden])
    row = np.cumsum(hidden) - 1  # of the hidden items
    expected = embeddings.user @ new.embedding.T + new.offset
    error = np.sqrt(np.mean((np.clip(expected, 1, 5)[test.user, row[test.item]] - test.rating) ** 2))
    assert error < np.sqrt(np.mean((fit.rating.mean() - test.rating) ** 2)) - 0.01
