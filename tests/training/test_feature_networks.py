"""A network over pairs: what NumPy computes from the exported arrays is what TensorFlow computes from its variables."""

import numpy as np
import pytest
import tensorflow as tf
from tiny_feature_log import SCHEMA, tiny_log, tiny_schema

from recpolicy.core.errors import DivergedError
from recpolicy.inference.feature_policy import chosen_pairs
from recpolicy.models.feature_agent_configs import FeatureNetworkConfig
from recpolicy.models.network_reward import apply_layers
from recpolicy.training.feature_networks import PairNetwork, embedded_columns, pair_blocks, train_network
from recpolicy.training.feature_training import fit_encoder

EMBEDDED = tiny_schema(
    context={**SCHEMA["context"], "device": {"type": "category", "encoding": "embedding", "dim": 2}},
    action={**SCHEMA["action"], "id": {"type": "category", "encoding": "embedding", "dim": 3}},
)


@pytest.fixture(scope="module")
def log():
    return tiny_log(200)


@pytest.fixture(scope="module")
def encoder(log):
    return fit_encoder(EMBEDDED, log)


@pytest.fixture(scope="module")
def pairs(log, encoder):
    return chosen_pairs(encoder, False, log)


def train(pairs, log, encoder, outputs=1, weight=None, **settings):
    config = FeatureNetworkConfig(layers=(6, 5), learning_rate=0.01, **settings)
    weight = np.ones(len(log)) if weight is None else weight
    return train_network(
        pairs, log.reward, weight, encoder, config, outputs=outputs, epochs=3, batch_size=50, seed=1, source="tiny"
    )


def test_categories_with_embeddings_are_found_among_the_columns(encoder):
    names = [*encoder.context_names, *encoder.action_names]
    blocks = embedded_columns(encoder)
    assert [block.dim for block in blocks] == [2, 3]
    for block, name in zip(blocks, ("device", "id"), strict=True):
        assert all(name in column for column in names[block.start : block.stop])
        assert not any(name in column for column in names[: block.start] + names[block.stop :])


@pytest.mark.parametrize("normalization", ["none", "layer", "batch"])
@pytest.mark.parametrize("outputs", [1, 4])
def test_exported_layers_give_the_outputs_of_the_network(pairs, log, encoder, normalization, outputs):
    network, _, _ = train(pairs, log, encoder, outputs=outputs, normalization=normalization)
    x = next(iter(pair_blocks(pairs)))
    np.testing.assert_allclose(apply_layers(network.export(), pairs), network.encode(tf.constant(x)).numpy(), atol=2e-6)


def test_moments_are_those_of_all_training_rounds(pairs, log, encoder):
    network, _, _ = train(pairs, log, encoder, normalization="batch")
    x = tf.constant(next(iter(pair_blocks(pairs))))
    for index, (mean, variance) in enumerate(network.moments):
        z = network.encode(x, layers=index).numpy()
        np.testing.assert_allclose(mean, z.mean(axis=0), atol=1e-5)
        np.testing.assert_allclose(variance, z.var(axis=0), atol=1e-5)
    # With one batch of all rounds, training and answering see the same moments.
    np.testing.assert_allclose(network.rewards(x, training=True).numpy(), network.rewards(x).numpy(), atol=1e-4)


def test_the_same_seed_gives_the_same_network(pairs, log, encoder):
    one, other = (train(pairs, log, encoder)[0].export() for _ in range(2))
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name])
    config = FeatureNetworkConfig(layers=(6, 5))
    kernels = [PairNetwork(13, [], 1, config, seed).kernels[0].numpy() for seed in (2, 3)]
    assert np.abs(kernels[0] - kernels[1]).min() > 0


def test_a_round_of_weight_zero_teaches_nothing(pairs, log, encoder):
    seen = np.arange(len(log)) % 2 == 0
    wrong = np.where(seen, log.reward, 1 - log.reward)
    weight = np.where(seen, 2.0, 0.0)
    one, _, _ = train(pairs, log, encoder, weight=weight)
    config = FeatureNetworkConfig(layers=(6, 5), learning_rate=0.01)
    other, _, _ = train_network(
        pairs, wrong, weight, encoder, config, outputs=1, epochs=3, batch_size=50, seed=1, source="tiny"
    )
    np.testing.assert_allclose(apply_layers(one.export(), pairs), apply_layers(other.export(), pairs), atol=1e-6)


def test_numbers_that_explode_stop_the_training(pairs, log, encoder):
    with pytest.raises(DivergedError, match=r"training from tiny diverged: .*; no policy is written"):
        train(pairs, log, encoder, weight=np.full(len(log), 1e30))
