import numpy as np
import pytest
from tiny_dataset import miniature_ratings

from recpolicy.agents.item_features import compute_item_features
from recpolicy.models.bias import BiasConfig, fit_bias
from recpolicy.models.embeddings import embed


def test_tables_of_the_catalog_count_fit_ratings_and_shrink_their_mean():
    fit = miniature_ratings()
    embeddings = embed(fit_bias(fit, BiasConfig(), seed=0), rank=3)
    action_items = np.array([7, 3, 60], np.int32)
    arms = compute_item_features(action_items, embeddings, fit)
    mine = fit.rating[fit.item == 3]
    assert arms.count[1] == len(mine)
    # Four ratings' worth of the global mean.
    assert arms.mean_rating[1] == pytest.approx((mine.sum() + 4 * fit.rating.mean()) / (len(mine) + 4), rel=1e-6)
    np.testing.assert_array_equal(arms.embedding, embeddings.item[action_items])
    np.testing.assert_array_equal(arms.offset, embeddings.offset[action_items])
    assert arms.scale == fit.scale


def test_a_item_without_ratings_has_the_global_mean():
    every = miniature_ratings()
    fit = every.take(every.item != 5)
    arms = compute_item_features(np.array([5, 6], np.int32), embed(fit_bias(fit, BiasConfig(), seed=0), rank=2), fit)
    assert arms.count[0] == 0
    assert arms.mean_rating[0] == pytest.approx(fit.rating.mean(), rel=1e-6)
