import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_ratings import rank_two, rmse, table

from recpolicy.data.splits import split
from recpolicy.models import item_knn
from recpolicy.models.bias import fit_biases
from recpolicy.models.item_knn import ItemKNNConfig, fit_item_knn, neighbor_shift, similarity


def test_similarity_is_the_shrunken_correlation_over_common_raters():
    # Residuals of item 0: 1, -1, 2 (users 0, 1, 2); of item 1: 2, 1 (users 0, 1). Common raters 0 and 1:
    # (1*2 - 1*1) / sqrt((1 + 1) (4 + 1)) = 1 / sqrt(10), times (2 - 1) / (2 - 1 + 3) = 1/4.
    ratings = table(np.array([0, 1, 2, 0, 1]), np.array([0, 0, 0, 1, 1]), np.full(5, 3.0), (3, 3))
    similar = similarity(ratings, np.array([1.0, -1, 2, 2, 1]), ItemKNNConfig(shrinkage=3))
    expected = np.zeros((3, 3))
    expected[0, 1] = expected[1, 0] = 0.25 / np.sqrt(10)
    np.testing.assert_allclose(similar, expected, rtol=1e-6)


def test_too_few_common_raters_are_not_similar():
    ratings = table(np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), np.full(4, 3.0), (2, 2))
    residual = np.array([1.0, -1, 1, -1])
    assert similarity(ratings, residual, ItemKNNConfig(min_support=2))[0, 1] > 0
    assert similarity(ratings, residual, ItemKNNConfig(min_support=3))[0, 1] == 0


def shift_by_loops(fit, residual, similar, most, least):
    """The definition, cell by cell."""
    shift = np.zeros(fit.shape)
    for user in range(fit.shape[0]):
        rated = np.flatnonzero(fit.user == user)
        for item in range(fit.shape[1]):
            near = sorted(((similar[item, fit.item[row]], row) for row in rated), reverse=True)[:most]
            near = [(weight, row) for weight, row in near if weight > 0]
            if near and len(near) >= least:
                shift[user, item] = sum(w * residual[row] for w, row in near) / sum(w for w, _ in near)
    return shift


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**16),
    most=st.integers(1, 8),
    least=st.integers(1, 3),
    cells=st.sampled_from([1, 200, 1 << 20]),
)
def test_vectorised_neighbours_equal_the_definition(seed, most, least, cells):
    fit, _ = rank_two(seed, noise=0.3, users=9, items=11)
    config = ItemKNNConfig(max_neighbors=most, min_neighbors=least, shrinkage=1)
    residual = fit.rating - fit_biases(fit, config.baseline).expected()[fit.user, fit.item]
    similar = similarity(fit, residual, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item_knn, "_CELLS", cells)  # chunks of one user, a few users, all users
        shift, effective = neighbor_shift(fit, residual, similar, config)
    np.testing.assert_allclose(shift, shift_by_loops(fit, residual, similar, most, least), atol=1e-5)
    assert effective.max() <= most + 1e-4  # Kish: at most the number of neighbors


def test_a_user_without_ratings_gets_the_baseline():
    fit, _ = rank_two(seed=0, noise=0.3, users=20, items=15)
    lonely = fit.take(fit.user != 4)
    model = fit_item_knn(lonely, ItemKNNConfig(), seed=0)
    np.testing.assert_allclose(model.mean[4], fit_biases(lonely, ItemKNNConfig().baseline).expected()[4], atol=1e-6)


@pytest.mark.band
def test_u1_has_its_known_error_and_honest_noise(ml100k):
    parts = split(ml100k, "u1")
    model = fit_item_knn(parts.train, ItemKNNConfig(), seed=0)
    error = rmse(model.mean, parts.test)
    assert error == pytest.approx(0.9359, abs=0.0005)
    std = model.std[parts.test.user, parts.test.item]
    assert np.sqrt(model.noise_std**2 + np.mean(std**2)) == pytest.approx(error, abs=0.04)
