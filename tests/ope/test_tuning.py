from types import SimpleNamespace

import numpy as np
import pytest
from synthetic_rounds import WORLD

from recpolicy.core.errors import ConfigError
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.inputs import QValues
from recpolicy.ope.tuning import CLIP, TuningResult, bias_bound, slope_index, tune

TRANSFORMING = [name for name, spec in ESTIMATORS.items() if spec.transform]
USERS = Clusters.from_users(np.arange(2_000))


def tuned(name, weight, reward, q, method, clusters=USERS) -> TuningResult:
    """The setting of an estimator whose reward model predicts q for all actions."""
    inputs = inputs_of(weight, reward, q)
    spec = ESTIMATORS[name]
    terms = lambda transformed: spec.statistic(inputs, transformed).terms  # noqa: E731
    residual = reward - q if "model" in spec.needs else reward
    return tune(spec.transform, weight, residual, terms, clusters, method)


def inputs_of(weight, reward, q):
    same = np.full(len(weight), q)
    return SimpleNamespace(weight=weight, reward=reward, model=QValues(same, same, None, True))


@pytest.mark.parametrize(
    ("values", "errors", "expected"),
    [
        ([0.0, 0, 0], [0.1, 0.2, 0.3], 0),  # all meet: the tamest
        ([0.0, 5, 5], [0.1, 0.2, 0.3], 1),  # the first misses the second
        ([0.0, 0, 5], [0.1, 0.2, 0.3], 2),  # both miss the last
        ([0.0, 1, 0], [0.1, 0.1, 9], 1),  # the first meets the last, but not the second
        ([0.0, 1], [0.25, 0.25], 0),  # they touch: 0 + .5 = 1 - .5
    ],
)
def test_slope_takes_the_first_whose_interval_meets_all_after_it(values, errors, expected):
    assert slope_index(np.array(values), np.array(errors)) == expected


def test_the_bias_bound_is_the_formula():
    # w - u = 8 in one of 100 rounds, r = 1, q = 0: .08 + sqrt(2 * .64 * ln 40 / 100) + 2 * 8 * ln 40 / 300
    weight = np.append(10.0, np.ones(99))
    logarithm = np.log(40)
    expected = 0.08 + np.sqrt(2 * 0.64 * logarithm / 100) + 2 * 8 * logarithm / 300
    assert bias_bound(weight - np.minimum(weight, 2), np.ones(100)) == pytest.approx(expected)
    assert bias_bound(np.zeros(100), np.ones(100)) == 0


def heavy(seed, rounds=2_000, rare=1e-3):
    """A rare action of weight 500 beside a common one of weight about 1/2; rewards .5 or so, for a q of .5."""
    rng = np.random.default_rng(seed)
    seldom = rng.random(rounds) < rare
    weight = np.where(seldom, 0.5 / rare, 0.5 / (1 - rare))
    reward = (rng.random(rounds) < 0.5).astype(float)
    return weight, reward, 0.5


@pytest.mark.parametrize("method", ["bound", "slope"])
@pytest.mark.parametrize("name", TRANSFORMING)
def test_the_setting_is_one_of_the_reported_candidates(name, method):
    spec, (weight, reward, q) = ESTIMATORS[name], heavy(0)
    tuning = tuned(name, weight, reward, q, method)
    assert tuning.value in tuning.candidates
    assert len(tuning.estimates) == len(tuning.scores) == len(tuning.candidates)
    transformed = spec.transform.apply(weight, tuning.value)
    index = tuning.candidates.index(tuning.value)
    value = spec.statistic(inputs_of(weight, reward, q), transformed).value
    assert value == pytest.approx(tuning.estimates[index])
    if method == "bound":
        assert tuning.scores[index] == min(tuning.scores)


@pytest.mark.parametrize("name", ["switch_dr", "dros"])
def test_slope_beats_plain_dr_where_weights_are_heavy_and_q_is_right(name):
    transformed, plain = [], []
    for seed in range(60):
        tuning = tuned(name, *heavy(seed), "slope")
        transformed.append(tuning.estimates[tuning.candidates.index(tuning.value)] - 0.5)
        plain.append(tuning.estimates[-1] - 0.5)  # the last candidate leaves the weights alone
    assert np.square(transformed).mean() < 0.3 * np.square(plain).mean()


@pytest.mark.parametrize("name", TRANSFORMING)
def test_bound_hardly_changes_weights_that_are_not_heavy(name):
    rounds = WORLD.log(20_000, 0)
    weight = WORLD.target_in(rounds).prob / rounds.behavior_prob
    tuning = tuned(name, weight, rounds.reward, 0.0, "bound", rounds.clusters)
    assert tuning.estimates[tuning.candidates.index(tuning.value)] == pytest.approx(tuning.estimates[-1], abs=0.005)


def test_no_transformed_weight_exceeds_the_maximum_of_its_setting():
    weight = np.geomspace(1e-3, 1e5, 10_001)
    for name in TRANSFORMING:
        transform = ESTIMATORS[name].transform
        for setting in transform.candidates:
            assert transform.apply(weight, setting).max() <= transform.max_weight(setting) * (1 + 1e-9)


def test_candidates_run_from_the_strongest_transform_to_none():
    weight = np.geomspace(1e-3, 300, 1_001)
    for name in TRANSFORMING:
        transform = ESTIMATORS[name].transform
        spread = [transform.apply(weight, setting).std() for setting in transform.candidates]
        assert (np.diff(spread) >= -1e-12).all()
        np.testing.assert_array_equal(transform.apply(weight, transform.candidates[-1]), weight)


def test_an_unknown_method_is_refused():
    weight, reward, _ = heavy(0)
    with pytest.raises(ConfigError, match=r"no method to choose a setting named 'slop'\. Did you mean 'slope'"):
        tune(CLIP, weight, reward, lambda transformed: transformed, USERS, "slop")
