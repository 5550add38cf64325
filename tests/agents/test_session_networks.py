"""Scores of items from the observation: the three heads, the start, and the trainer."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import BATCH, arms, arrays_of, block, expected_ratings, make, observations, specs, world

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.categorical import MASKED
from recpolicy.agents.session_networks import SessionNetworkConfig, Trainer, dot_head_features, make_scores, make_value
from recpolicy.core.errors import ConfigError
from recpolicy.testing.synthetic_sessions import STEPS

ROWS, ITEMS = 7, 24


def network(head: str = "dot", seed: int = 0, *, tables: bool = True, state_value: bool = False):
    config = SessionNetworkConfig(layers=(8,), head=head, temperature=0.5)
    return make_scores(*specs(), config, arms() if tables else None, seed, state_value=state_value)


def shake(scores) -> None:
    """Give every weight some value: the dot head starts at 0."""
    rng = np.random.default_rng(4)
    for weight in scores.weights:
        weight.assign(rng.normal(0, 0.4, weight.shape).astype(np.float32))


@pytest.mark.parametrize("head", ["dot", "tower"])
def test_the_dot_head_and_the_tower_start_as_the_rating_model_over_temperature(head):
    seen = observations(ROWS)
    np.testing.assert_allclose(network(head)(seen, None), expected_ratings(seen) / 0.5, rtol=1e-5)


def test_the_dot_head_moves_the_user_among_embeddings_and_genres():
    scores, seen = network(), observations(ROWS)
    shake(scores)
    moved = scores.network(seen).numpy()  # [B, D + G]
    rank = world().embedding.shape[1]
    user = seen[:, :rank] + moved[:, :rank]
    expected = arms().offset + user @ arms().embedding.T + moved[:, rank:] @ arms().genres.T
    np.testing.assert_allclose(scores(seen, None), expected / 0.5, rtol=1e-4, atol=1e-5)


def test_the_tower_moves_the_vectors_of_items_but_not_their_start():
    scores, seen = network("tower"), observations(ROWS)
    shake(scores)
    features = dot_head_features(arms())
    vectors = features + scores.tower(features).numpy()
    expected = expected_ratings(seen) + scores.network(seen).numpy() @ vectors.T
    np.testing.assert_allclose(scores(seen, None), expected / 0.5, rtol=1e-4, atol=1e-5)
    found = scores.arrays()
    assert found["table"].shape == (4 + 9, ITEMS)
    np.testing.assert_allclose(found["table"][4:], vectors.T, rtol=1e-5, atol=1e-5)
    other = network("tower", 1)
    other.load(found)
    np.testing.assert_array_equal(other(seen, None), scores(seen, None))
    with pytest.raises(ConfigError, match=r"another network: tower/kernel_0 has the shape None"):
        network("tower").load(network().arrays())


@pytest.mark.parametrize("name", [name for name in SESSION_AGENTS if name != "q_learning"])
def test_every_agent_trains_its_tower(name):
    agent = make(name, head="tower", tower_layers=(6,))
    before = arrays_of(agent)
    agent.learner.prepare(STEPS * BATCH)
    for _ in range(3):  # the tower has no gradient until the network's output is not 0
        agent.learner.update(block(STEPS), tf.constant([1, 1], tf.int32))
    after = arrays_of(agent)
    assert (before["tower/kernel_1"] != after["tower/kernel_1"]).any()
    assert (before["table"][:4] == after["table"][:4]).all()
    assert (before["table"][4:] != after["table"][4:]).any()


def test_without_genres_the_dot_head_uses_embeddings_only():
    from dataclasses import replace

    bare = replace(arms(), genres=None)
    assert dot_head_features(bare).shape == (ITEMS, 4)
    assert dot_head_features(arms()).shape == (ITEMS, 9)
    seen = observations(ROWS)
    scores = make_scores(*specs(), SessionNetworkConfig(temperature=0.5), bare, 0)
    np.testing.assert_allclose(scores(seen, None), expected_ratings(seen) / 0.5, rtol=1e-5)


@pytest.mark.parametrize(("head", "tables"), [("plain", True), ("plain", False), ("dot", False)])
def test_the_plain_head_is_the_networks_output(head, tables):
    """Asked for, or for want of tables."""
    scores, seen = network(head, tables=tables), observations(ROWS)
    np.testing.assert_array_equal(scores(seen, None), scores.network(seen))
    assert scores(seen, None).shape == (ROWS, ITEMS)
    assert scores.tables() == {}
    assert set(scores.arrays()) == {"kernel_0", "bias_0", "kernel_1", "bias_1"}


@pytest.mark.parametrize("head", ["dot", "plain"])
def test_masked_items_get_the_masked_score_and_others_theirs(head):
    scores, seen = network(head), observations(ROWS)
    mask = np.random.default_rng(0).random((ROWS, ITEMS)) < 0.5
    found = scores(seen, tf.constant(mask)).numpy()
    assert (found[~mask] == MASKED).all()
    np.testing.assert_array_equal(found[mask], scores(seen, None).numpy()[mask])


@pytest.mark.parametrize("head", ["dot", "plain", "tower"])
def test_a_state_value_is_an_output_of_its_own(head):
    scores, seen = network(head, state_value=True), observations(ROWS)
    shake(scores)
    value, items = scores.with_state_value(tf.constant(seen))
    assert (value.shape, items.shape) == ((ROWS,), (ROWS, ITEMS))
    last = scores.network.trainable_variables[-1]
    last.assign(tf.concat([last[:-1], last[-1:] + 3.0], axis=0))
    raised, same = scores.with_state_value(tf.constant(seen))
    np.testing.assert_allclose(raised - value, 3.0, rtol=1e-5)
    np.testing.assert_array_equal(same, items)


def test_arrays_are_enough_to_score_without_the_network():
    scores, seen = network(), observations(ROWS)
    shake(scores)
    found = scores.arrays()
    hidden = np.maximum(seen @ found["kernel_0"] + found["bias_0"], 0)
    start = hidden @ found["kernel_1"] + found["bias_1"]
    start[:, : found["rank"]] += seen[:, : found["rank"]]
    expected = (found["table_offset"] + start @ found["table"]) / found["temperature"]
    np.testing.assert_allclose(scores(seen, None), expected, rtol=1e-4, atol=1e-5)


def test_values_start_at_0():
    np.testing.assert_array_equal(make_value(specs()[0], SessionNetworkConfig(), 0)(observations(ROWS)), 0)


def test_weights_are_seeded():
    first, same, other = (network("plain", seed).arrays()["kernel_0"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)


def descend(limit: float, scale: float) -> tuple[float, np.ndarray]:
    """The norm told, and the weights after a step down scale * (3 x + 4 y)."""
    weight = tf.Variable([0.0, 0.0])
    trainer = Trainer([weight], SessionNetworkConfig(max_grad_norm=limit, learning_rate=0.1))
    with tf.GradientTape() as tape:
        loss = scale * tf.reduce_sum(weight * tf.constant([3.0, 4.0]))
    return float(trainer.descend(tape, loss)), weight.numpy()


def test_the_gradients_norm_is_told_before_it_is_bounded():
    assert descend(0.5, 10.0)[0] == pytest.approx(50)


def test_gradients_beyond_the_bound_count_as_if_they_were_at_it():
    """Adam's small epsilon tells gradients of different sizes apart when they are as small as here."""
    np.testing.assert_allclose(descend(1e-4, 1.0)[1], descend(1e-4, 1000.0)[1], rtol=1e-5)
    np.testing.assert_allclose(descend(0.0, 2e-5)[1], descend(1e-4, 1.0)[1], rtol=1e-4)
    assert not np.allclose(descend(0.0, 2e-5)[1], descend(0.0, 2e-4)[1], rtol=0.05)


def test_a_step_goes_down():
    assert (descend(0.5, 1.0)[1] < -0.05).all()


@pytest.mark.parametrize("wrong", [{"temperature": 0.0}, {"learning_rate": -1.0}, {"max_grad_norm": -0.1}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        SessionNetworkConfig(**wrong)
