from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_mdp import MU as MDP_MU
from synthetic_mdp import PI as MDP_PI
from synthetic_mdp import exact_q, paths, sampled, split_into_sessions, value_of
from synthetic_rounds import simplexes, vectors
from synthetic_slates import ALL, CHANCE, MU, PI, SLATES, WANTED, K, additive, at, cascade, interacting, logged

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import (
    estimate_slates,
    estimate_trajectories,
    slate_value_differences,
    trajectory_value_differences,
)
from recpolicy.ope.estimators import ESTIMATORS
from recpolicy.ope.feedback import SlateFeedback, TrajectoryFeedback
from recpolicy.ope.inputs import QValues
from recpolicy.ope.intervals import pseudo_inverse_bounds, weighted_bounds
from recpolicy.ope.terms import returns
from recpolicy.ope.weights import cumulative_weights, pseudo_inverse_weights

A = 4
BOUNDED = [name for name, spec in ESTIMATORS.items() if spec.bounds]
SPAN = (-1.0, 2.0)


@pytest.mark.parametrize("name", BOUNDED)
@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A, *SPAN), q=vectors(A, *SPAN), pick=st.integers(0, 10))
def test_bounds_hold_the_truth_by_enumeration_and_their_terms_stay_within_the_width(name, mu, pi, reward, q, pick):
    spec, weight = ESTIMATORS[name], pi / mu
    inputs = SimpleNamespace(reward=reward, model=QValues(np.full(A, pi @ q), q, None, True))
    transformed, max_weight = weight, float(weight.max())
    if spec.transform is not None:
        setting = spec.transform.candidates[pick % len(spec.transform.candidates)]
        transformed = spec.transform.apply(weight, setting)
        max_weight = min(max_weight, spec.transform.max_weight(setting))
    bounds = spec.bounds(inputs, weight, transformed, SPAN, max_weight)
    truth = pi @ reward
    assert mu @ bounds.lower <= truth + 1e-9
    assert mu @ bounds.upper >= truth - 1e-9
    for side in (bounds.lower, bounds.upper):
        assert np.ptp(side) <= bounds.width + 1e-9
    if np.array_equal(transformed, weight):
        assert mu @ bounds.lower == pytest.approx(truth, abs=1e-9)


@given(mu=simplexes(A), pi=simplexes(A), reward=vectors(A, *SPAN), unseen=st.integers(0, A))
def test_bounds_by_weights_hold_where_the_target_does_what_is_never_logged(mu, pi, reward, unseen):
    logged = np.arange(A) != unseen  # A: all are logged
    mu = mu[logged] / mu[logged].sum()
    weight = pi[logged] / mu
    bounds = weighted_bounds(weight, reward[logged], SPAN, float(weight.max()))
    assert mu @ bounds.lower <= pi @ reward + 1e-9
    assert mu @ bounds.upper >= pi @ reward - 1e-9


LARGEST = float((PI / MU).max(axis=1).prod())
"""Of the weights of whole slates: 3.5 * 3 * 5/3 = 17.5."""


@given(worth=vectors(K * 3, 0.0, 1.0))
def test_bounds_of_slates_hold_the_truth_by_enumeration(worth):
    reward = at(worth.reshape(K, 3), SLATES).sum(axis=1)
    truth, span = WANTED @ reward, (-1.0, 4.0)
    whole = weighted_bounds(cumulative_weights(ALL)[:, -1], reward, span, LARGEST)
    pseudo = pseudo_inverse_bounds(pseudo_inverse_weights(ALL), reward, K, span, LARGEST)
    for bounds in (whole, pseudo):
        for side in (bounds.lower, bounds.upper):
            assert CHANCE @ side == pytest.approx(truth)
            assert np.ptp(side) <= bounds.width + 1e-9


@given(mu=st.lists(simplexes(3), min_size=1, max_size=4), pi=st.data())
def test_the_largest_product_bounds_pseudo_inverse_weights_and_their_terms(mu, pi):
    ratio = np.array([pi.draw(simplexes(3)) / row for row in mu])  # [K, D]
    slots = len(ratio)
    slates = np.array(np.meshgrid(*[np.arange(3)] * slots)).reshape(slots, -1).T
    shown = at(ratio, slates)
    weight, largest = pseudo_inverse_weights(shown), float(shown.prod(axis=1).max())
    assert weight.max() <= largest * (1 + 1e-9)
    assert weight.min() >= 1 - slots
    terms = [pseudo_inverse_bounds(weight, np.full(len(shown), paid), slots, (0, 1), largest) for paid in (0.0, 1.0)]
    assert np.ptp([each.lower for each in terms]) <= terms[0].width + 1e-9


def test_terms_of_slates_that_are_hardly_wanted_stay_within_the_width_too():
    # four slots with ratios 0 or 1/.99: G = -3 where all are 0, largest product 1.041; G (R - 1/2) = -+ 3/2
    ratio = np.repeat([[0.0], [1 / 0.99]], 4, axis=1)
    weight = pseudo_inverse_weights(ratio)
    assert weight[0] == -3
    terms = [pseudo_inverse_bounds(weight, np.full(2, paid), 4, (0, 1), 0.99**-4) for paid in (0.0, 1.0)]
    assert np.ptp([each.lower for each in terms]) == pytest.approx(terms[0].width)
    assert terms[0].width == 3


def test_bounds_of_pi_are_about_another_number_once_slots_interact():
    reward = interacting(SLATES).sum(axis=1)
    bounds = pseudo_inverse_bounds(pseudo_inverse_weights(ALL), reward, K, (0.0, 3.0), LARGEST)
    assert abs(CHANCE @ bounds.lower - WANTED @ reward) > 0.03


def test_bounds_of_sessions_hold_the_truth_by_enumeration():
    chance, state, action, length = paths()
    log = split_into_sessions(state, action, length)
    whole, earned = cumulative_weights(log.ratio)[:, -1], returns(log.masked_reward, log.gamma)
    bounds = weighted_bounds(whole, earned, (0.0, 6.0), 8.0)
    for side in (bounds.lower, bounds.upper):
        assert chance @ side == pytest.approx(value_of(MDP_PI, log.gamma))
        assert np.ptp(side) <= bounds.width


def thousand_times(*rows):
    return [np.repeat(np.asarray(each, float), 1_000, axis=0) for each in rows]


def four_thousand_slates() -> SlateFeedback:
    """Y = (2, 2), (2, 0), (0, 2), (0, 0) with rewards 1, .6, .5, .1, a thousand times."""
    target, reward = thousand_times([[1, 1], [1, 0], [0, 1], [0, 0]], [1, 0.6, 0.5, 0.1])
    return SlateFeedback(np.full((4_000, 2), 0.5), target, reward, np.arange(4_000))


def two_thousand_sessions() -> TrajectoryFeedback:
    """Y = (1, .5), (1.5, 1), so W = .5, 1.5; returns 1 + 3/2 and 2; a thousand times."""
    reward, target = thousand_times([[1, 3], [2, 0]], [[0.4, 0.2], [0.6, 0.4]])
    return TrajectoryFeedback(reward, np.full((2_000, 2), 0.4), target, np.full(2_000, 2), np.arange(2_000), 0.5)


def ends(result):
    return result.intervals["bernstein"].lo, result.intervals["bernstein"].hi


def test_bernstein_of_slates_is_as_worked_out_by_hand():
    # ln(2 / .025) = 4.382027, rewards in 0..2, weights to 4: width 8, 7 * 8 * 4.382027 / (3 * 3999) = .020455
    # ips: W R = 4, 0, 0, 0 and 2 - W (2 - R) = -2, 2, 2, 2: means 1, V = 3 * 4000/3999 both
    #   sqrt(2 * 3.000750 * 4.382027 / 4000) = .081085: 1 -+ .101540
    # pi: 1 + G (R - 1) = 1, .6, .5, 1.9: mean 1, V = .305 * 4000/3999, sqrt(...) = .025854: 1 -+ .046308
    config = MultiStepConfig(resamples=1, reward_range=(0, 2), weight_bound=4)
    found = estimate_slates(four_thousand_slates(), config=config)
    assert {name for name in found if "bernstein" in found[name].intervals} == {"ips", "pi"}
    assert ends(found["ips"]) == pytest.approx((0.898460, 1.101540), abs=2e-6)
    assert ends(found["pi"]) == pytest.approx((0.953692, 1.046308), abs=2e-6)
    # over what was logged, mean .55 and width 2: ips W R - R = 3, -.6, -.5, -.1; 2 - W (2 - R) - R = -3, 1.4, 1.5, 1.9
    #   means .45; V = 2.202500, 4.002500 (* 4000/3999), width 10: .069467 and .093645 + .025569
    won = slate_value_differences(four_thousand_slates(), None, ["ips"], config)["ips"]
    assert ends(won) == pytest.approx((0.45 - 0.095036, 0.45 + 0.119226), abs=2e-5)
    assert won.incumbent.intervals["bernstein"].hi < 0.6


def test_bernstein_of_sessions_is_as_worked_out_by_hand():
    # returns in 0..5, weights to 1.5: width 7.5, 7 * 7.5 * 4.382027 / (3 * 1999) = .038362
    # W R = 1.25, 3: mean 2.125, V = .765625 * 2000/1999, sqrt(2 V 4.382027 / 2000) = .057937
    # 5 - W (5 - R) = 3.75, .5: mean 2.125, V = 2.640625 * 2000/1999, .107597
    config = MultiStepConfig(resamples=1, reward_range=(0, 5), weight_bound=1.5)
    found = estimate_trajectories(two_thousand_sessions(), config=config)
    assert {name for name in found if "bernstein" in found[name].intervals} == {"trajectory_is"}
    assert ends(found["trajectory_is"]) == pytest.approx((2.125 - 0.096299, 2.125 + 0.145959), abs=2e-6)
    same = trajectory_value_differences(two_thousand_sessions(), two_thousand_sessions(), ["trajectory_is"], config)
    # W R - (5 - W (5 - R)) = -2.5, 2.5 and its negative, V = 6.25 * 2000/1999, width 15: .165536 + .076724
    assert ends(same["trajectory_is"]) == pytest.approx((-0.242260, 0.242260), abs=2e-5)


def test_bernstein_of_slates_and_their_gains_covers_at_least_as_often_as_it_says():
    """100 logs of 4,000 slates of 2,000 users; the gain is over the logging policy."""
    config = MultiStepConfig(resamples=1, reward_range=(0, 3), weight_bound=LARGEST)
    value = {earn: WANTED @ earn(SLATES).sum(axis=1) for earn in (additive, cascade)}
    logged_value = {earn: CHANCE @ earn(SLATES).sum(axis=1) for earn in (additive, cascade)}
    held: dict[str, list[bool]] = {}
    for seed in range(100):
        for earn, names in ((additive, ["ips", "pi"]), (cascade, ["ips"])):
            log, _ = logged(4_000, seed, earn=earn, users=2_000)
            for name, one in slate_value_differences(log, None, names, config).items():
                lo, hi = ends(one.candidate)
                held.setdefault(f"{name} value", []).append(lo <= value[earn] <= hi)
                assert lo > 0 or hi < 3  # it says something
                lo, hi = ends(one)
                held.setdefault(f"{name} gain", []).append(lo <= value[earn] - logged_value[earn] <= hi)
    assert len(held) == 4
    assert all(np.mean(each) >= 0.95 for each in held.values())


def test_bernstein_of_sessions_covers_at_least_as_often_as_it_says():
    config = MultiStepConfig(resamples=1, reward_range=(0, 5.42), weight_bound=8)
    truth, gap = value_of(MDP_PI, 0.9), value_of(MDP_PI, 0.9) - value_of(MDP_MU, 0.9)
    assert exact_q(0.9).max() <= 5.42
    held = []
    for seed in range(100):
        log = split_into_sessions(*sampled(3_000, seed))
        one = trajectory_value_differences(log, None, ["trajectory_is"], config)["trajectory_is"]
        (lo, hi), (least, most) = ends(one.candidate), ends(one)
        held.append((lo <= truth <= hi, least <= gap <= most, lo > 0 and hi < 5.42))
    assert np.mean(held, axis=0).min() >= 0.95


def test_slates_that_depend_on_each_other_bound_ips_alone():
    pseudo_weight = np.linspace(0, 2, 9)  # given weights have no least one that is known
    half = np.full((9, 2), 0.5)
    log = SlateFeedback(half, half, np.arange(9) / 9, np.arange(9), independent=False, pseudo_weight=pseudo_weight)
    found = estimate_slates(log, config=MultiStepConfig(resamples=5, reward_range=(0, 1), weight_bound=4))
    assert "pi" in found
    assert {name for name in found if "bernstein" in found[name].intervals} == {"ips"}


@pytest.mark.parametrize("known", [{"reward_range": (0, 2)}, {"weight_bound": 4}])
def test_without_both_bounds_there_is_no_bernstein(known):
    config = MultiStepConfig(resamples=5, **known)
    assert "bernstein" not in estimate_slates(four_thousand_slates(), ["ips"], config)["ips"].intervals
    found = estimate_trajectories(
        two_thousand_sessions(), ["trajectory_is"], config if "weight_bound" in known else None
    )
    assert "bernstein" not in found["trajectory_is"].intervals


def test_what_was_said_to_be_known_must_hold():
    slates, sessions = four_thousand_slates(), two_thousand_sessions()
    few = {"resamples": 5}
    with pytest.raises(DataError, match=r"row 0: reward 1\.0 \(and 999 more such rows\); expected within reward_range"):
        estimate_slates(slates, ["pi"], MultiStepConfig(reward_range=(0, 0.9), **few))
    with pytest.raises(DataError, match=r"row 0: weight 4\.0 .*at most weight_bound 3\.5"):
        estimate_slates(slates, ["ips"], MultiStepConfig(weight_bound=3.5, **few))
    estimate_slates(slates, ["pi"], MultiStepConfig(weight_bound=3.5, **few))  # G is at most 3
    with pytest.raises(DataError, match=r"row 0: weight 3\.0 .*at most weight_bound 2\.5"):
        slate_value_differences(slates, slates, ["pi"], MultiStepConfig(weight_bound=2.5, **few))
    with pytest.raises(DataError, match=r"row 0: reward 2\.5 .*within reward_range 0\.\.2"):
        estimate_trajectories(sessions, ["per_decision_is"], MultiStepConfig(reward_range=(0, 2), **few))
    with pytest.raises(DataError, match=r"row 1000: weight 1\.[45]\d* .*at most weight_bound 1\.4"):
        trajectory_value_differences(sessions, None, ["trajectory_is"], MultiStepConfig(weight_bound=1.4, **few))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"reward_range": (1, 1)}, r"MultiStepConfig: reward_range is \(1\.0, 1\.0\): expected \(minimum, maximum\)"),
        ({"weight_bound": 0.5}, r"MultiStepConfig: weight_bound is 0\.5: expected greater than or equal to 1"),
        ({"weight_bound": np.nan}, "weight_bound is nan"),
    ],
)
def test_bounds_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MultiStepConfig(**settings)
