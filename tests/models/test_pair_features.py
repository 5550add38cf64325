import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import ConfigError
from recpolicy.models.bias import BiasConfig, fit_bias
from recpolicy.models.embeddings import embed
from recpolicy.models.pair_features import PairFeatures, prior_weights


def test_features_are_the_product_the_offset_and_a_constant():
    features = PairFeatures(np.array([[1, 2], [3, 4]], np.float32), np.array([10, 20], np.float32))
    seen = features.of(tf.constant([[5.0, -1.0]]), features.all_items)
    np.testing.assert_array_equal(seen, [[[5, -2, 10, 1], [15, -4, 20, 1]]])
    assert features.width == 4


@given(seed=st.integers(0, 1000), rank=st.integers(1, 6))
def test_the_prior_weights_give_the_rating_models_expectation(seed, rank):
    rng = np.random.default_rng(seed)
    item, offset = rng.normal(size=(7, rank)).astype(np.float32), rng.normal(size=7).astype(np.float32)
    user = rng.normal(size=(3, rank)).astype(np.float32)
    features = PairFeatures(item, offset)
    ratings = features.of(tf.constant(user), features.all_items).numpy() @ prior_weights(rank)
    np.testing.assert_allclose(ratings, offset + user @ item.T, atol=1e-4)


def test_they_reproduce_a_fitted_models_ratings():
    embeddings = embed(fit_bias(miniature_ratings(), BiasConfig(), seed=0), rank=4)
    features = PairFeatures(embeddings.item, embeddings.offset)
    ratings = features.of(tf.constant(embeddings.user), features.all_items).numpy() @ prior_weights(4)
    np.testing.assert_allclose(np.clip(ratings, *embeddings.scale), embeddings.ratings(), atol=1e-4)


@pytest.mark.parametrize("extra", [0, 2])
def test_own_candidates_of_every_row_and_demographics_after_the_embedding(extra):
    rng = np.random.default_rng(0)
    features = PairFeatures(rng.normal(size=(6, 3)).astype(np.float32), rng.normal(size=6).astype(np.float32))
    context = tf.constant(rng.normal(size=(2, 3 + extra)), tf.float32)
    everything = features.of(context, features.all_items).numpy()
    chosen = np.array([[5, 0], [2, 2]], np.int32)
    own = features.of(context, tf.constant(chosen)).numpy()
    np.testing.assert_array_equal(own, np.take_along_axis(everything, chosen[..., np.newaxis], axis=1))


def test_attributes_and_their_products_follow():
    """p = 5, x = (2, 3); q = (1), (4); a = (1, 0), (0, 6)."""
    item, offset = np.array([[1], [4]], np.float32), np.array([10, 20], np.float32)
    attributes = np.array([[1, 0], [0, 6]], np.float32)
    context = tf.constant([[5.0, 2.0, 3.0]])
    plain = PairFeatures(item, offset, attributes, user_attributes=2)
    expected = [[[5, 10, 1, 1, 0], [20, 20, 1, 0, 6]]]
    np.testing.assert_array_equal(plain.of(context, plain.all_items), expected)
    assert plain.width == 5
    products = PairFeatures(item, offset, attributes, user_attributes=2, interactions=True)
    more = [[[5, 10, 1, 1, 0, 2, 0, 3, 0], [20, 20, 1, 0, 6, 0, 12, 0, 18]]]
    np.testing.assert_array_equal(products.of(context, products.all_items), more)
    np.testing.assert_array_equal(products.of(context, tf.constant([[1]])), [[more[0][1]]])
    assert products.width == 9
    assert prior_weights(1, 9).tolist() == [1, 1, 0, 0, 0, 0, 0, 0, 0]


def test_too_many_products_are_refused():
    item, offset = np.zeros((2, 4), np.float32), np.zeros(2, np.float32)
    with pytest.raises(ConfigError, match="60 columns of users and 20 of items are 1,226 weights, more than 1024"):
        PairFeatures(item, offset, np.zeros((2, 20), np.float32), user_attributes=60, interactions=True)
