"""The masked softmax policy: what is drawn, how often, with which log-probability, and its gradients."""

import math

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recpolicy.agents.categorical import (
    MASKED,
    draw,
    log_probability,
    log_probability_and_entropy,
    mask_logits,
    row_max,
)  # fmt: skip
from recpolicy.core.tensorflow_random import fold_in, uniform

SIZES = (1, 2, 3, 4, 5, 9, 10, 1682)
"""Numbers of actions; the draw searches square blocks, so those around squares are of interest."""
EDGES = (0.0, 2.0**-24, 0.5, 1.0 - 2.0**-23, 1.0 - 2.0**-24)
MANY = 20_000

compiled = tf.function(draw, jit_compile=True, autograph=False)


def softmax(logits: np.ndarray) -> np.ndarray:
    weight = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return weight / weight.sum(axis=-1, keepdims=True)


def random_logits(rows: int, actions: int, seed: int = 0, spread: float = 2.0) -> np.ndarray:
    """Half of the actions masked, one at least allowed."""
    rng = np.random.default_rng([seed, actions])
    allowed = rng.random((rows, actions)) < 0.5
    allowed[np.arange(rows), rng.integers(0, actions, rows)] = True
    return np.where(allowed, spread * rng.normal(size=(rows, actions)), MASKED).astype(np.float32)


@pytest.mark.parametrize("function", [draw, compiled], ids=["eager", "xla"])
@pytest.mark.parametrize("actions", SIZES)
def test_frequencies_are_the_softmax(function, actions):
    """20,000 draws: every share within 4.5 standard errors, of 1,682 actions those expected 4 times or more."""
    logits = random_logits(1, actions)
    probability = softmax(logits[0])
    action, _ = function(tf.repeat(logits, MANY, axis=0), uniform([MANY], tf.constant([1, actions])))
    share = np.bincount(action, minlength=actions) / MANY
    error = np.sqrt(probability * (1 - probability) / MANY)
    counted = probability * MANY >= 4
    np.testing.assert_array_less(np.abs(share - probability)[counted], 4.5 * error[counted] + 1e-6)
    np.testing.assert_array_equal(share[probability == 0], 0)


@pytest.mark.parametrize("actions", SIZES)
def test_the_drawn_action_is_that_of_the_distribution_function(actions):
    """Against the prefix sums in float64, but for points nearer to one than float32 resolves."""
    logits = random_logits(200, actions)
    point = uniform([200], tf.constant([2, actions]))
    action = draw(tf.constant(logits), point)[0].numpy()
    above = np.cumsum(softmax(logits), axis=1)
    clear = np.abs(above - point.numpy()[:, np.newaxis]).min(axis=1) > 1e-5
    np.testing.assert_array_equal(action[clear], (above <= point.numpy()[:, np.newaxis]).sum(axis=1)[clear])
    assert clear.mean() > 0.9


@pytest.mark.parametrize("actions", SIZES)
def test_the_log_probability_is_that_of_the_action(actions):
    logits = random_logits(300, actions)
    action, told = draw(tf.constant(logits), uniform([300], tf.constant([3, actions])))
    expected = np.log(softmax(logits)[np.arange(300), action.numpy()])
    np.testing.assert_allclose(told, expected, atol=1e-5)
    np.testing.assert_allclose(log_probability(tf.constant(logits), action), expected, atol=1e-5)
    np.testing.assert_allclose(log_probability_and_entropy(tf.constant(logits), action)[0], expected, atol=1e-5)


def masked_draws(logits: tf.Tensor, rounds: int) -> int:
    """How often a masked action comes up in rows x rounds draws, in one XLA program."""

    @tf.function(jit_compile=True, autograph=False)
    def count() -> tf.Tensor:
        def one(index: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            action, _ = draw(logits, uniform([logits.shape[0]], fold_in(tf.constant([4, 4]), index)))
            wrong = tf.gather(logits, action, batch_dims=1) <= MASKED
            return index + 1, total + tf.reduce_sum(tf.cast(wrong, tf.int32))

        return tf.while_loop(lambda index, _: index < rounds, one, (tf.constant(0), tf.constant(0)))[1]

    return int(count())


@pytest.mark.parametrize(("actions", "spread"), [(10, 2.0), (24, 60.0)])
def test_no_masked_action_in_a_million_draws(actions, spread):
    assert masked_draws(tf.constant(random_logits(20_000, actions, spread=spread)), 50) == 0


def test_no_masked_action_among_1682_where_the_allowed_ones_hardly_differ_from_nothing():
    """100,000 draws; weights reach down to the smallest that float32 holds."""
    assert masked_draws(tf.constant(random_logits(2_000, 1682, spread=30.0)), 50) == 0


def extremes(actions: int) -> np.ndarray:
    """Logits [7, actions]: one allowed, the first, the last; one towers; all sink; a long way down, and up."""
    number = np.arange(actions)
    some, far = number % 2 == 0, 104.0 * number / actions
    rows = [
        np.where(number == actions // 2, 3.0, MASKED),
        np.where(number == 0, -5.0, MASKED),
        np.where(number == actions - 1, 1e4, MASKED),
        np.where(some, np.where(number == 0, 1e4, -1e4), MASKED),
        np.where(some, -1e6, MASKED),
        np.where(some, -far, MASKED),
        np.where(some, far, MASKED),
    ]
    return np.stack(rows).astype(np.float32)


@pytest.mark.parametrize("actions", [1, 3, 10, 1682])
@pytest.mark.parametrize("function", [draw, compiled], ids=["eager", "xla"])
def test_at_the_edges_an_allowed_action_is_drawn(function, actions):
    """Points at 0 and as near to 1 as they come, with logits far apart."""
    logits = np.repeat(extremes(actions), len(EDGES), axis=0)
    points = np.tile(np.array(EDGES, np.float32), 7)
    assert points.max() < 1
    action, told = function(tf.constant(logits), tf.constant(points))
    assert (logits[np.arange(len(logits)), action.numpy()] > MASKED).all()
    assert (told.numpy() <= 1e-6).all()
    assert np.isfinite(told).all()


@pytest.mark.parametrize("actions", [10, 100, 1682])
@pytest.mark.parametrize("function", [draw, compiled], ids=["eager", "xla"])
def test_at_the_border_of_two_blocks_rounding_finds_an_allowed_neighbour(function, actions):
    """Points within rounding errors of where one of the searched blocks ends and the next begins."""
    rows, size = 2000, math.isqrt(actions - 1) + 1
    logits = random_logits(rows, actions, seed=9)
    above = np.cumsum(softmax(logits), axis=1)
    border = np.random.default_rng(0).integers(1, -(-actions // size), rows) * size - 1
    nearby = np.random.default_rng(1).integers(-3, 4, rows) * 2.0**-24
    point = np.clip(above[np.arange(rows), border] + nearby, 0, 1 - 2.0**-24).astype(np.float32)
    action = function(tf.constant(logits), tf.constant(point))[0].numpy()
    assert (logits[np.arange(rows), action] > MASKED).all()
    low = np.where(action > 0, above[np.arange(rows), action - 1], 0)
    assert (low - 1e-5 < point).all()
    assert (point < above[np.arange(rows), action] + 1e-5).all()


def test_masking_leaves_allowed_logits_alone():
    logits = tf.constant([[1.0, 2.0, 3.0]])
    assert mask_logits(logits, None) is logits
    assert mask_logits(logits, tf.constant([[True, False, True]])).numpy().tolist() == [[1.0, MASKED, 3.0]]


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), actions=st.integers(1, 12), spread=st.floats(0, 20))
def test_entropy_is_minus_sum_p_log_p_over_allowed_actions(seed, actions, spread):
    logits = random_logits(6, actions, seed, spread)
    probability = softmax(logits)
    logs = np.log(np.where(probability > 0, probability, 1.0))
    _, entropy = log_probability_and_entropy(tf.constant(logits), tf.argmax(logits, axis=1, output_type=tf.int32))
    np.testing.assert_allclose(entropy, -np.sum(probability * logs, axis=1), atol=2e-5)


def test_gradients_are_finite_and_zero_where_masked():
    """d log p(a) / d logits = 1[a] - p; dH / d logits = -p (log p + H)."""
    logits = random_logits(50, 10, spread=5.0)
    probability = softmax(logits)
    action = draw(tf.constant(logits), uniform([50], tf.constant([5, 5])))[0]
    variable = tf.Variable(logits)
    with tf.GradientTape(persistent=True) as tape:
        told, entropy = log_probability_and_entropy(variable, action)
        total, plain = tf.reduce_sum(entropy), tf.reduce_sum(log_probability(variable, action))
        chosen = tf.reduce_sum(told)
    picked = np.eye(10)[action.numpy()]
    np.testing.assert_allclose(tape.gradient(chosen, variable), picked - probability, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(plain, variable), picked - probability, atol=1e-5)
    logs = np.where(probability > 0, np.log(np.maximum(probability, 1e-300)), 0.0)
    expected = -probability * (logs - np.sum(probability * logs, axis=1, keepdims=True))
    gradient = tape.gradient(total, variable).numpy()
    np.testing.assert_allclose(gradient, expected, atol=2e-5)
    np.testing.assert_array_equal(gradient[logits == MASKED], 0)


def test_gradients_reach_scores_through_the_mask():
    scores = tf.Variable([[0.3, -0.2, 0.9]])
    mask = tf.constant([[True, False, True]])
    with tf.GradientTape() as tape:
        told, entropy = log_probability_and_entropy(mask_logits(scores, mask), tf.constant([2]))
        loss = tf.reduce_sum(told + entropy)
    gradient = tape.gradient(loss, scores).numpy()[0]
    assert np.isfinite(gradient).all()
    assert gradient[1] == 0
    assert gradient[0] == pytest.approx(-gradient[2], rel=1e-5)
    assert gradient[2] != 0


@pytest.mark.parametrize("jit", [False, True])
def test_row_max_has_the_bits_of_the_maximum(jit: bool) -> None:
    rng = np.random.default_rng(3)
    table = (rng.standard_normal((200, 37)) * 10.0 ** rng.integers(-30, 30, (200, 37))).astype(np.float32)
    table[:50] = -np.abs(table[:50])  # rows without a positive entry
    table[0], table[1], table[2, 5] = MASKED, 0.0, np.inf
    found = tf.function(row_max, jit_compile=jit, autograph=False)(tf.constant(table)).numpy()
    assert np.array_equal(found, table.max(axis=1, keepdims=True))
