"""Trainable encoders of the last items: numbers worked out by hand, causality, empty places, NumPy against TensorFlow.

B sessions, n = 4 places, F = 3 item features, C = 2 columns of the context.
"""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import arrays_of, block, environment, make

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.sequence_encoders import SequenceEncoder, SequenceEncoderConfig, exported_encoder
from recpolicy.core.errors import ConfigError
from recpolicy.inference.sequence_encoders import encode_sequence
from recpolicy.models.sequence_layout import SEQUENCE_VIEWS, SequenceLayout

CONTEXT, PLACES, FEATURES, UNITS = 2, 4, 3, 8
every_view = pytest.mark.parametrize("view", SEQUENCE_VIEWS)


def encoder(view: str, seed: int = 0, layers: int = 2) -> SequenceEncoder:
    """A shaken encoder: no weight is 0."""
    config = SequenceEncoderConfig(sequence_units=UNITS, transformer_layers=layers)
    made = SequenceEncoder(SequenceLayout(view, PLACES, FEATURES), config, seed)
    rng = np.random.default_rng(seed)
    for weight in made.trainable_variables:
        weight.assign_add(rng.normal(0, 0.5, weight.shape).astype(np.float32))
    return made


def arrays(made: SequenceEncoder) -> dict[str, np.ndarray]:
    return made.words() | {name: weight.numpy() for name, weight in made.named_weights().items()}


def observations(lengths: list[int], seed: int = 0) -> np.ndarray:
    """Observations [B, O] of sessions that have shown this many items, at most n."""
    rng = np.random.default_rng(seed)
    tokens = np.zeros((len(lengths), PLACES, FEATURES + 2), np.float32)
    for row, length in enumerate(lengths):
        tokens[row, :length, :FEATURES] = rng.normal(size=(length, FEATURES))
        tokens[row, :length, -2] = rng.integers(0, 2, length)
        tokens[row, :length, -1] = 1
    rest = rng.normal(size=(len(lengths), CONTEXT + 1)).astype(np.float32)
    return np.concatenate([rest[:, :CONTEXT], tokens.reshape(len(lengths), -1), rest[:, -1:]], axis=1)


def tokens_of(observation: np.ndarray) -> np.ndarray:
    """The tokens [B, n, F + 2], as a view that can be written to."""
    return observation[:, CONTEXT:-1].reshape(len(observation), PLACES, -1)


@every_view
def test_context_and_steps_pass_and_an_empty_session_is_encoded_as_zeros(view):
    seen = observations([0, 2, PLACES])
    encoded = encoder(view)(tf.constant(seen)).numpy()
    assert encoded.shape == (3, CONTEXT + UNITS + 1)
    np.testing.assert_array_equal(encoded[:, :CONTEXT], seen[:, :CONTEXT])
    np.testing.assert_array_equal(encoded[:, -1], seen[:, -1])
    np.testing.assert_array_equal(encoded[0, CONTEXT:-1], 0)
    assert (np.abs(encoded[1:, CONTEXT:-1]).max(axis=1) > 0.01).all()


@every_view
@pytest.mark.parametrize("place", range(PLACES))
def test_every_item_and_its_response_count(view, place):
    seen = observations([PLACES])
    liked, shifted = seen.copy(), seen.copy()
    token = slice(CONTEXT + place * (FEATURES + 2), CONTEXT + (place + 1) * (FEATURES + 2))
    liked[0, token][-2] = 1 - seen[0, token][-2]
    shifted[0, token][0] += 1
    before, after, moved = encoder(view)(tf.constant(np.concatenate([seen, liked, shifted]))).numpy()
    assert np.abs(after - before).max() > 1e-3
    assert np.abs(moved - before).max() > 1e-3


@every_view
def test_order_counts(view):
    seen = observations([PLACES])
    turned = seen.copy()
    tokens_of(turned)[...] = tokens_of(seen)[:, ::-1]
    before, after = encoder(view)(tf.constant(np.concatenate([seen, turned]))).numpy()
    assert np.abs(after - before).max() > 1e-2


@every_view
def test_what_an_empty_place_holds_never_counts(view):
    """Only its last column says that it is empty."""
    seen = observations([1, 3])
    noisy, tokens = seen.copy(), tokens_of(seen)
    tokens_of(noisy)[..., :-1] += 7.0 * (tokens[..., -1:] == 0)
    made = encoder(view)
    np.testing.assert_allclose(made(tf.constant(noisy)), made(tf.constant(seen)), atol=1e-6)


def test_a_place_of_the_transformer_never_sees_newer_ones():
    """With two blocks, the encoding of the newest place reads all rows of the first. If a row saw newer ones, the item
    there would reach itself through it: so the same items one place older, and alone, must give the same rows."""
    from recpolicy.agents import sequence_encoders as module

    made, rows = encoder("transformer"), []
    weights = {name.removeprefix("encoder/"): weight for name, weight in made.named_weights().items()}
    attention = module._attention

    def spy(queries, keys, values, visible, heads):
        seen = attention(queries, keys, values, visible, heads)
        rows.append(seen.numpy())
        return seen

    seen = observations([PLACES])
    changed = seen.copy()
    tokens_of(changed)[:, 0, :FEATURES] += 3.0  # the newest item
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_attention", spy)
        for one in (seen, changed):
            module.encode(weights, SequenceLayout("transformer", PLACES, FEATURES), 2, tf.constant(one))
    first, first_changed = rows[0], rows[2]  # of the first block, all places
    np.testing.assert_array_equal(first[:, 1:], first_changed[:, 1:])
    assert np.abs(first[:, 0] - first_changed[:, 0]).max() > 1e-2


def test_one_step_of_the_gru_by_hand():
    """One unit, one item of one feature 2 that was liked: z = s(.5), r = s(1), c = tanh(.25 + r .5)."""
    layout = SequenceLayout("gru", 1, 1)
    weights = {
        "input": tf.constant([[0.25, 0.5, 0.125]] + [[0.0] * 3] * 2), "input_bias": tf.zeros([3]),
        "recurrent": tf.constant([[9.0, 9.0, 9.0]]), "recurrent_bias": tf.constant([0.0, 0.0, 0.5]),
    }  # fmt: skip
    from recpolicy.agents.sequence_encoders import encode

    found = encode(weights, layout, 1, tf.constant([[2.0, 1.0, 1.0, 0.3]])).numpy()
    z, r = 1 / (1 + np.exp(-0.5)), 1 / (1 + np.exp(-1.0))
    np.testing.assert_allclose(found, [[(1 - z) * np.tanh(0.25 + r * 0.5), 0.3]], rtol=1e-6)


@every_view
@pytest.mark.parametrize("prefix", ["", "value/"])
def test_numpy_and_the_exported_encoder_say_the_same(view, prefix):
    seen = observations([0, 1, 2, 3, 4, 4] * 20)
    made = encoder(view)
    exported = {prefix + name: array for name, array in arrays(made).items()}
    expected = made(tf.constant(seen)).numpy()
    np.testing.assert_allclose(encode_sequence(exported, seen, prefix), expected, atol=1e-5)
    np.testing.assert_allclose(exported_encoder(exported, prefix)(tf.constant(seen)), expected, atol=1e-6)
    other = "value/" if not prefix else ""
    np.testing.assert_array_equal(encode_sequence(exported, seen, other), seen)


def test_heads_divide_the_units():
    with pytest.raises(ConfigError, match="sequence_units is 6: expected a multiple of transformer_heads, 4"):
        make("ppo", view="transformer", sequence_units=6, transformer_heads=4)


def test_a_table_reads_no_sequence():
    with pytest.raises(ConfigError, match="q_learning: a table cannot learn to read the view gru; take interest"):
        make("q_learning", view="gru")


@every_view
@pytest.mark.parametrize("name", [name for name in SESSION_AGENTS if name != "q_learning"])
def test_every_agent_trains_its_encoders_and_starts_from_those_of_another(name, view):
    from recpolicy.testing import random_experience

    agent, other = make(name, view=view), make(name, 1, view=view)
    before = arrays_of(agent)
    with_seed = tf.constant([1, 1], tf.int32)
    experience = random_experience(environment(view=view), 8, 0)
    agent.learner.prepare(64)
    for _ in range(2):  # heads that start at 0 pass no gradient on in the first step
        agent.learner.update(experience, with_seed)
    after = arrays_of(agent)
    weights = [key for key in after if "encoder/" in key and after[key].dtype.kind == "f"]
    assert weights
    assert all(not np.array_equal(before[key], after[key]) for key in weights if "input" in key)
    other.learner.start_from(after)
    for key in weights:
        np.testing.assert_array_equal(arrays_of(other)[key], after[key])
    with pytest.raises(ConfigError, match="another network"):
        make(name, view=view, sequence_units=4).learner.start_from(after)


def test_other_views_have_no_encoder():
    assert not any("encoder" in key for key in arrays_of(make("ppo")))
    assert block(2).observation.shape[-1] == make("ppo").time_step_spec.observation["global"].shape[0]
