"""The hashed linear model: steps worked out by hand, importance, hashing of pairs, and compiled code against NumPy."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recpolicy.core.errors import ArtifactError
from recpolicy.data.features import FeatureEncoder, FeatureSchema, SparseRows, columns_from_records, hashed_names
from recpolicy.data.features.hashing import CONSTANT, pair_indices
from recpolicy.data.features.schema import CategoryFeature, JsonFeature, NumberFeature
from recpolicy.models.hashed_linear import (
    GRADIENT,
    SCALE,
    WEIGHT,
    HashedLinear,
    HashedLinearConfig,
    has_numba,
)

PLAIN = HashedLinearConfig(learning_rate=0.5, adaptive=False, normalized=False)
EVERY = [HashedLinearConfig(adaptive=a, normalized=n) for a in (False, True) for n in (False, True)]
ENGINES = [False, pytest.param(True, marks=pytest.mark.skipif(not has_numba(), reason="needs numba"))]


def rows(*features):
    """Return sparse rows from dicts of index -> value."""
    start = np.cumsum([0, *map(len, features)])
    index = np.array([key for row in features for key in row], np.uint32)
    return SparseRows(start, index, np.array([value for row in features for value in row.values()], np.float32))


NONE = rows({})
ONE = rows({7: 1.0})  # with the constant: x.x = 2
FIRST = np.zeros(1, np.int64)


def learned(config, importance, compiled, times=1):
    model = HashedLinear(config, 10, False)
    for _ in range(times):
        model.learn(ONE, NONE, FIRST, FIRST, np.ones(1), np.array([importance]), compiled=compiled)
    return float(model.predict(ONE, NONE, FIRST, FIRST)[0])


@pytest.mark.parametrize("compiled", ENGINES)
@pytest.mark.parametrize(
    ("importance", "expected"), [(1.0, 1 - math.exp(-1)), (2.0, 1 - math.exp(-2)), (1e9, 1.0), (0.0, 0.0)]
)
def test_a_step_moves_towards_the_reward_by_its_importance_and_never_beyond(compiled, importance, expected):
    assert learned(PLAIN, importance, compiled) == pytest.approx(expected, abs=1e-9)  # .632121, .864665
    assert expected <= 1  # a gradient step of importance 2 would end at 2


@pytest.mark.parametrize("compiled", ENGINES)
def test_one_round_of_importance_two_is_two_rounds(compiled):
    assert learned(PLAIN, 2.0, compiled) == pytest.approx(learned(PLAIN, 1.0, compiled, times=2), abs=1e-12)


@pytest.mark.parametrize("compiled", ENGINES)
def test_the_adaptive_normalized_step_worked_out(compiled):
    """x = (1, 4), y = 1: G = (1, 16), s = (1, 4), r_i = x_i / (s_i sqrt(G_i)) = (1, 1/4), x.r = 2, m = sqrt(1 / 2)."""
    model = HashedLinear(HashedLinearConfig(learning_rate=0.5), 10, False)
    assert model.learn(rows({7: 4.0}), NONE, FIRST, FIRST, np.ones(1), compiled=compiled).tolist() == [0]
    move = (1 - math.exp(-0.5 * math.sqrt(1 / 2) * 2)) / 2
    constant = CONSTANT % 1024
    assert model.table[constant] == pytest.approx([move, 1, 1])
    assert model.table[7] == pytest.approx([move / 4, 16, 4])
    assert model.totals.tolist() == [1, 2]


@pytest.mark.parametrize("compiled", ENGINES)
@pytest.mark.parametrize("factor", [0.01, 100.0])
def test_the_unit_of_a_feature_does_not_matter(compiled, factor):
    rng = np.random.default_rng(0)
    x = rng.normal(size=40).astype(np.float32)
    guesses = []
    for unit in (1.0, factor):
        model = HashedLinear(HashedLinearConfig(), 10, False)
        features = rows(*({7: unit * float(value)} for value in x))
        guesses.append(model.learn(features, NONE, np.arange(40), np.zeros(40, int), 0.3 * x + 0.1, compiled=compiled))
    assert guesses[0] == pytest.approx(guesses[1], abs=1e-6)


@st.composite
def problems(draw):
    """Rounds with ragged rows, few indices (so that they collide), zeros, and importances."""
    index = st.integers(0, 2**31 - 1) | st.sampled_from([1, 2, 3, 1025, CONSTANT])
    row = st.dictionaries(index, st.sampled_from([0.0, 1.0, -2.0, 0.5, 1e-3, 30.0]), max_size=4)
    context, action = draw(st.lists(row, min_size=1, max_size=5)), draw(st.lists(row, min_size=1, max_size=5))
    n = draw(st.integers(1, 12))
    pick = lambda size: np.array(draw(st.lists(st.integers(0, size - 1), min_size=n, max_size=n)))  # noqa: E731
    floats = lambda low, high: np.array(draw(st.lists(st.floats(low, high), min_size=n, max_size=n)))  # noqa: E731
    return rows(*context), rows(*action), pick(len(context)), pick(len(action)), floats(-1, 1), floats(0, 5)


@pytest.mark.skipif(not has_numba(), reason="needs numba")
@pytest.mark.parametrize("interactions", [False, True])
@pytest.mark.parametrize("config", EVERY, ids=lambda config: f"{config.adaptive}-{config.normalized}")
@settings(max_examples=30, deadline=None)
@given(problem=problems())
def test_compiled_code_and_numpy_learn_the_same_weights(config, interactions, problem):
    slow, fast = HashedLinear(config, 10, interactions), HashedLinear(config, 10, interactions)
    before = slow.learn(*problem, compiled=False)
    assert fast.learn(*problem, compiled=True) == pytest.approx(before, abs=1e-6)
    np.testing.assert_allclose(fast.table, slow.table, rtol=1e-6, atol=1e-6)
    assert fast.totals == pytest.approx(slow.totals)
    guess = slow.predict(*problem[:4])
    assert fast.predict(*problem[:4], compiled=True) == pytest.approx(guess, abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(problem=problems())
def test_many_predictions_are_the_single_ones(problem):
    context, action, context_row, action_row, reward, importance = problem
    model = HashedLinear(HashedLinearConfig(), 10, True)
    model.learn(context, action, context_row, action_row, reward, importance, compiled=False)
    single = [model.predict(context, action, context_row[[n]], action_row[[n]])[0] for n in range(len(reward))]
    assert model.predict(context, action, context_row, action_row) == pytest.approx(single, abs=1e-9)


def test_predictions_are_sums_of_weights_of_features_and_pairs():
    model = HashedLinear(HashedLinearConfig(), 18, True)
    model.table[:, WEIGHT] = np.random.default_rng(0).normal(size=1 << 18)
    context, action = rows({1: 2.0, 900: 1.0}), rows({5: 3.0})
    w = lambda index: model.table[int(index) % 2**18, WEIGHT]  # noqa: E731
    pair = lambda a, b: w(pair_indices(np.uint32(a), np.uint32(b)))  # noqa: E731
    expected = w(CONSTANT) + 2 * w(1) + w(900) + 3 * w(5) + 6 * pair(1, 5) + 3 * pair(900, 5)
    assert model.predict(context, action, FIRST, FIRST)[0] == pytest.approx(expected)
    model.interactions = False
    expected = w(CONSTANT) + 2 * w(1) + w(900) + 3 * w(5)
    assert model.predict(context, action, FIRST, FIRST)[0] == pytest.approx(expected)


SCHEMA = FeatureSchema(
    context={"device": CategoryFeature(), "page": CategoryFeature(encoding="hashed"), "session": JsonFeature()},
    action={"price": NumberFeature()},
)
CONTEXTS = [
    {"device": "phone", "page": "home", "session": {"a": {"b": "x"}, "n": 2}},
    {"device": "desktop", "page": "cart", "session": {"a": {"b": "y"}}},
]


def trained():
    """Return an encoder and a model that has learned something about both contexts."""
    context = columns_from_records(CONTEXTS, list(SCHEMA.context))
    action = columns_from_records([{"price": 1}, {"price": 2}], ["price"])
    encoder = FeatureEncoder.fit(SCHEMA, context, action)
    model = HashedLinear(HashedLinearConfig(), SCHEMA.bits, SCHEMA.interactions)
    seen = encoder.sparse_context(context), encoder.sparse_action(action)
    model.learn(*seen, np.array([0, 1, 0, 1]), np.array([0, 1, 1, 0]), np.array([1.0, 0.2, 0.7, 0.0]))
    return encoder, model, seen[1]


def predicted(context):
    encoder, model, action = trained()
    seen = encoder.sparse_context(columns_from_records([context], list(SCHEMA.context)))
    return model.predict(seen, action, np.zeros(2, int), np.arange(2))


def test_an_unknown_category_has_no_weight_and_the_rest_predicts():
    known = {"page": "home", "session": {"n": 2}}
    expected = predicted(known)
    assert (predicted({**known, "device": "watch"}) == expected).all()
    assert (predicted({**known, "page": "phone-book"}) != expected).any()  # without the weight of page=home
    unknown = predicted({"session": {"n": 2}, "page": "phone-book"})
    assert unknown == pytest.approx(predicted({"session": {"n": 2}}))


def test_order_and_nesting_of_features_do_not_matter():
    expected = predicted(CONTEXTS[0])
    assert (predicted(dict(reversed(CONTEXTS[0].items()))) == expected).all()
    assert predicted({**CONTEXTS[0], "session": {"n": 2, "a.b": "x"}}) == pytest.approx(expected, abs=1e-12)


def test_the_sign_of_a_hash_does_not_matter_to_predictions():
    index, sign = hashed_names(["context.a", "context.b"])
    x = rows({int(index[0]): float(sign[0]), int(index[1]): 2 * float(sign[1])})
    model, other = (HashedLinear(HashedLinearConfig(), 12, False) for _ in range(2))
    unsigned = SparseRows(x.start, x.index, np.abs(x.value))
    for rewards in (0.3, 0.8):
        model.learn(x, NONE, FIRST, FIRST, np.array([rewards]))
        other.learn(unsigned, NONE, FIRST, FIRST, np.array([rewards]))
    assert model.predict(x, NONE, FIRST, FIRST) == pytest.approx(other.predict(unsigned, NONE, FIRST, FIRST))


def test_learns_a_bilinear_reward_in_one_pass():
    rng = np.random.default_rng(1)
    x, z = rng.normal(size=(4_000, 3)).astype(np.float32), rng.normal(size=(10, 2)).astype(np.float32)
    truth = rng.normal(size=(3, 2)) / 3
    chosen = rng.integers(0, 10, 4_000)
    reward = 0.5 + np.einsum("nd,de,ne->n", x, truth, z[chosen])
    context = rows(*(dict(enumerate(row)) for row in x))
    action = rows(*(dict(enumerate(row, 50)) for row in z))
    model = HashedLinear(HashedLinearConfig(learning_rate=0.5), 14, True)
    guess = model.learn(context, action, np.arange(4_000), chosen, reward)
    assert np.square(guess - reward)[-500:].mean() < 0.01 * reward.var()
    model.interactions = False
    assert np.square(model.predict(context, action, np.arange(4_000), chosen) - reward).mean() > 0.5 * reward.var()


def test_a_model_survives_its_arrays_and_learns_on_from_them():
    _, model, _ = trained()
    arrays = model.arrays()
    assert len(arrays["index"]) < 40  # only weights that have learned
    copy = HashedLinear.from_arrays(model.config, model.bits, model.interactions, arrays)
    assert (copy.table == model.table).all()
    assert (copy.totals == model.totals).all()
    other = model.copy()
    other.learn(ONE, ONE, FIRST, FIRST, np.ones(1))
    assert (other.table != model.table).any()
    assert (copy.table == model.table).all()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda a: a.pop("totals"), "other shapes"),
        (lambda a: a.update(table=a["table"][:, :2]), "other shapes"),
        (lambda a: a.update(index=a["index"][::-1]), "indices are not those of 2"),
        (lambda a: a["index"].__setitem__(-1, 2**18), "indices are not those of 2"),
        (lambda a: a["table"].__setitem__((0, WEIGHT), np.nan), "not finite"),
        (lambda a: a["table"].__setitem__((0, GRADIENT), -1), "a size is negative"),
        (lambda a: a["table"].__setitem__((0, SCALE), np.inf), "not finite"),
    ],
)
def test_arrays_that_no_model_has_are_refused(damage, message):
    _, model, _ = trained()
    arrays = model.arrays()
    damage(arrays)
    with pytest.raises(ArtifactError, match=message):
        HashedLinear.from_arrays(model.config, model.bits, model.interactions, arrays)
