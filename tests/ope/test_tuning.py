import numpy as np
import pytest
from synthetic_rounds import WORLD

from recpolicy.core.errors import ConfigError
from recpolicy.ope.estimator_specs import CLIP, ESTIMATORS, Evidence
from recpolicy.ope.rounds import Units
from recpolicy.ope.tuning import bias_bound, choose, slope_index

TAMED = [name for name, recipe in ESTIMATORS.items() if recipe.taming]


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
    evidence = Evidence(weight, np.ones(100), np.zeros(100), np.zeros(100))
    logarithm = np.log(40)
    expected = 0.08 + np.sqrt(2 * 0.64 * logarithm / 100) + 2 * 8 * logarithm / 300
    assert bias_bound(evidence, np.minimum(weight, 2)) == pytest.approx(expected)
    assert bias_bound(evidence, weight) == 0


def heavy(seed, rounds=2_000, rare=1e-3):
    """A rare action of weight 500 beside a common one of weight about 1/2; rewards .5 or so, q right or nearly so."""
    rng = np.random.default_rng(seed)
    seldom = rng.random(rounds) < rare
    weight = np.where(seldom, 0.5 / rare, 0.5 / (1 - rare))
    reward = (rng.random(rounds) < 0.5).astype(float)
    return Evidence(weight, reward, np.full(rounds, 0.5), np.full(rounds, 0.5))


@pytest.mark.parametrize("method", ["bound", "slope"])
@pytest.mark.parametrize("name", TAMED)
def test_the_choice_is_one_of_the_reported_candidates(name, method):
    recipe, evidence = ESTIMATORS[name], heavy(0)
    choice = choose(recipe, recipe.taming, evidence, Units.of(np.arange(2_000)), method)
    assert choice.value in choice.candidates
    assert len(choice.estimates) == len(choice.scores) == len(choice.candidates)
    used = recipe.taming.tame(evidence.weight, choice.value)
    place = choice.candidates.index(choice.value)
    assert recipe.form(evidence, used).value == pytest.approx(choice.estimates[place])
    if method == "bound":
        assert choice.scores[place] == min(choice.scores)


@pytest.mark.parametrize("name", ["switch_dr", "dros"])
def test_taming_by_slope_beats_plain_dr_where_weights_are_heavy_and_q_is_right(name):
    recipe, units = ESTIMATORS[name], Units.of(np.arange(2_000))
    tamed, plain = [], []
    for seed in range(60):
        evidence = heavy(seed)
        choice = choose(recipe, recipe.taming, evidence, units, "slope")
        tamed.append(choice.estimates[choice.candidates.index(choice.value)] - 0.5)
        plain.append(choice.estimates[-1] - 0.5)  # the last candidate leaves the weights alone
    assert np.square(tamed).mean() < 0.3 * np.square(plain).mean()


@pytest.mark.parametrize("name", TAMED)
def test_weights_that_are_not_heavy_are_left_almost_alone_by_the_bound(name):
    rounds = WORLD.log(20_000, 0)
    target = WORLD.target_in(rounds)
    direct, predicted = (np.zeros(20_000),) * 2
    evidence = Evidence(target.prob / rounds.logged_prob, rounds.reward, direct, predicted)
    recipe = ESTIMATORS[name]
    choice = choose(recipe, recipe.taming, evidence, rounds.units, "bound")
    assert choice.estimates[choice.candidates.index(choice.value)] == pytest.approx(choice.estimates[-1], abs=0.005)


def test_the_largest_tamed_weight_of_each_setting_is_never_passed():
    weight = np.geomspace(1e-3, 1e5, 10_001)
    for name in TAMED:
        taming = ESTIMATORS[name].taming
        for setting in taming.candidates:
            assert taming.tame(weight, setting).max() <= taming.largest(setting) * (1 + 1e-9)


def test_candidates_run_from_tamest_to_untamed():
    weight = np.geomspace(1e-3, 300, 1_001)
    for name in TAMED:
        taming = ESTIMATORS[name].taming
        spread = [taming.tame(weight, setting).std() for setting in taming.candidates]
        assert (np.diff(spread) >= -1e-12).all()
        np.testing.assert_array_equal(taming.tame(weight, taming.candidates[-1]), weight)


def test_an_unknown_way_to_choose_is_refused():
    with pytest.raises(ConfigError, match=r"no way to choose a setting named 'slop'\. Did you mean 'slope'"):
        choose(ESTIMATORS["clipped_ips"], CLIP, heavy(0), Units.of(np.arange(2_000)), "slop")
