"""Gains of slates and of sessions over an incumbent, both judged by one log."""

import json
from dataclasses import replace

import numpy as np
import pytest
from synthetic_mdp import MU as MDP_MU
from synthetic_mdp import PI as MDP_PI
from synthetic_mdp import exact_q, q_at, sampled, split_into_sessions, value_of
from synthetic_slates import (
    FEW,
    MU,
    PI,
    SLATES,
    WORTH,
    D,
    K,
    additive,
    at,
    cascade,
    fitted_model,
    interacting,
    logged,
    thousand,
)

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import (
    estimate_slates,
    estimate_trajectories,
    slate_value_differences,
    trajectory_value_differences,
)
from recpolicy.ope.estimators import SLATE_ESTIMATORS, TRAJECTORY_ESTIMATORS
from recpolicy.ope.feedback import SlateFeedback, TrajectoryFeedback
from recpolicy.ope.fqe import StepModel
from recpolicy.ope.terms import returns

OTHER = np.array([[0.3, 0.4, 0.3], [0.4, 0.4, 0.2], [0.5, 0.2, 0.3]])  # an incumbent that shows other slates
MDP_OTHER = np.array([[0.5, 0.5], [0.5, 0.5]])
BOUNDED = MultiStepConfig(resamples=100, reward_range=(0, 3), weight_bound=18)  # weights up to 17.5
MDP_BOUNDED = MultiStepConfig(resamples=100, reward_range=(0, 6), weight_bound=9)  # returns to 5.42, weights to 8


def slate_pair(slates=300, seed=0, earn=cascade):
    """A log of slates as candidate and incumbent see it, with a model of each."""
    log, items = logged(slates, seed, earn=earn)
    other = replace(log, target_prob=at(OTHER, items))
    return log, other, {"model": fitted_model(log, items), "incumbent_model": fitted_model(other, items, OTHER)}


def session_pair(sessions=300, seed=0):
    """The same of sessions."""
    paths = sampled(sessions, seed)
    log, other = split_into_sessions(*paths), split_into_sessions(*paths, pi=MDP_OTHER)
    models = [StepModel(*q_at(exact_q(0.9, policy), *paths, policy)) for policy in (MDP_PI, MDP_OTHER)]
    return log, other, dict(zip(("model", "incumbent_model"), models, strict=True))


SLATE_CASE = (slate_pair, slate_value_differences, estimate_slates, SLATE_ESTIMATORS, BOUNDED)
SESSION_CASE = (session_pair, trajectory_value_differences, estimate_trajectories, TRAJECTORY_ESTIMATORS, MDP_BOUNDED)
BOTH = pytest.mark.parametrize(
    ("pair", "gains", "estimate", "known", "config"), [SLATE_CASE, SESSION_CASE], ids=["slates", "sessions"]
)


@BOTH
def test_a_gain_is_the_difference_of_two_values_and_carries_both(pair, gains, estimate, known, config):
    log, other, models = pair()
    found = gains(log, other, config=config, **models)
    assert list(found) == list(known)
    first = estimate(log, config=config, model=models["model"])
    second = estimate(other, config=config, model=models["incumbent_model"])
    for name, one in found.items():
        assert one.estimator == name
        assert one.value == pytest.approx(first[name].value - second[name].value, abs=1e-12)
        assert (one.candidate, one.incumbent) == (first[name], second[name])
        assert one.verdict() in ("better", "worse", "undecided", "no verdict")
    assert json.loads(json.dumps({name: one.as_dict() for name, one in found.items()}, allow_nan=False))


@BOTH
def test_nobody_gains_over_himself(pair, gains, estimate, known, config):
    log, _, models = pair()
    for name, one in gains(log, log, config=config, model=models["model"], incumbent_model=models["model"]).items():
        assert one.value == 0, name
        for kind in ("bootstrap", "t", "sequence"):
            assert (one.intervals[kind].lo, one.intervals[kind].hi) == (0, 0), (name, kind)
        assert one.verdict() in ("undecided", "no verdict")
        if "bernstein" in one.intervals:
            assert one.intervals["bernstein"].lo < 0 < one.intervals["bernstein"].hi


@BOTH
def test_the_logging_policy_gains_nothing_over_what_was_logged(pair, gains, estimate, known, config):
    log, _, _ = pair()
    own = replace(log, target_prob=log.behavior_prob)
    flat = StepModel(np.full(log.behavior_prob.shape, 0.3), np.full(log.behavior_prob.shape, 0.3))
    found = gains(own, None, config=FEW, model=flat)
    earned = log.reward if pair is slate_pair else returns(log.masked_reward, log.gamma)
    for name, one in found.items():
        assert one.incumbent.value == pytest.approx(earned.mean())
        assert one.incumbent.diagnostics.effective_sample_size == pytest.approx(300)
        if name != "fqe":  # says what its model says
            assert one.value == pytest.approx(0, abs=1e-12), name
            assert one.intervals["bootstrap"].hi == pytest.approx(0, abs=1e-12)


@BOTH
def test_each_estimator_gains_what_it_gains_alone(pair, gains, estimate, known, config):
    log, other, models = pair()
    together = gains(log, other, config=config, **models)
    for name in ("snips", "cascade_dr") if pair is slate_pair else ("trajectory_wis", "fqe"):
        assert gains(log, other, [name], config, **models)[name] == together[name]
        alone = gains(log, None, [name], config, model=models["model"])[name]
        assert alone == gains(log, None, config=config, model=models["model"])[name]
        assert alone.candidate == together[name].candidate


@BOTH
def test_a_paired_gain_is_sharper_than_two_values(pair, gains, estimate, known, config):
    log, _, _ = pair(2_000)
    near = replace(log, target_prob=0.9 * log.target_prob + 0.1 * log.behavior_prob)
    name = "wpi" if pair is slate_pair else "per_decision_wis"
    found = gains(log, near, [name], FEW)[name]

    def width(interval):
        return interval.hi - interval.lo

    for kind in ("t", "bootstrap"):
        assert width(found.intervals[kind]) < 0.5 * width(found.candidate.intervals[kind])


def truth_of(earn, pi):
    return at(pi, SLATES).prod(axis=1) @ earn(SLATES).sum(axis=1)


def exact_gains(earn, names, incumbent=OTHER):
    log = thousand(earn)
    other = None if incumbent is None else thousand(earn, incumbent)
    found = slate_value_differences(log, other, names, MultiStepConfig(resamples=1))
    return [found[name].value for name in names], truth_of(earn, PI) - truth_of(
        earn, MU if other is None else incumbent
    )


@pytest.mark.parametrize("incumbent", [OTHER, None])
def test_gains_of_slates_are_unbiased_where_each_estimator_is(incumbent):
    found, truth = exact_gains(additive, ["ips", "iips", "rips", "pi"], incumbent)
    assert found == pytest.approx([truth] * 4)
    found, truth = exact_gains(cascade, ["ips", "rips"], incumbent)
    assert found == pytest.approx([truth] * 2)


@pytest.mark.parametrize("incumbent", [OTHER, None])
def test_the_gain_of_pi_is_biased_once_slots_interact_and_that_of_ips_is_not(incumbent):
    (ips, pi), truth = exact_gains(interacting, ["ips", "pi"], incumbent)
    assert ips == pytest.approx(truth)
    assert abs(pi - truth) > 0.03


def test_gains_of_sessions_are_near_the_truth_and_wrong_for_the_logging_policys_mean_return():
    log, other, models = session_pair(6_000, 1)
    truth = value_of(MDP_PI, 0.9) - value_of(MDP_OTHER, 0.9)
    for name, one in trajectory_value_differences(log, other, config=FEW, **models).items():
        error = (one.intervals["t"].hi - one.value) / 1.96
        assert abs(one.value - truth) < 4 * error, name
        width = one.intervals["bootstrap"].hi - one.intervals["bootstrap"].lo
        assert width == pytest.approx(4 * error, rel=0.35), name  # 100 resamples
    over_log = trajectory_value_differences(log, None, ["per_decision_wis"], FEW)["per_decision_wis"]
    real = value_of(MDP_PI, 0.9) - value_of(MDP_MU, 0.9)
    assert abs(over_log.value - real) < 4 * (over_log.intervals["t"].hi - over_log.value) / 1.96
    assert over_log.verdict() == "better"
    assert over_log.verdict(margin=10) == "worse"


def test_gains_cover_the_truth_about_as_often_as_they_say():
    truth, covered = truth_of(cascade, PI) - truth_of(cascade, OTHER), {}
    for seed in range(50):
        log, items = logged(2_000, seed, users=2_000)
        other = replace(log, target_prob=at(OTHER, items))
        found = slate_value_differences(log, other, ["rips", "snips"], replace(BOUNDED, resamples=200))
        for name, one in found.items():
            for kind in ("t", "bootstrap"):
                covered.setdefault((name, kind), []).append(one.intervals[kind].lo <= truth <= one.intervals[kind].hi)
    assert min(sum(held) for held in covered.values()) >= 41  # .95 less 4 standard errors of .031
    assert min(sum(held) for held in covered.values()) < 50


@BOTH
def test_below_fifty_effective_rows_of_either_there_is_no_verdict(pair, gains, estimate, known, config):
    log, other, _ = pair(60)
    name = "snips" if pair is slate_pair else "trajectory_wis"
    own = replace(log, target_prob=log.behavior_prob)
    assert gains(own, other, [name], FEW)[name].verdict(margin=-9) == "no verdict"
    assert gains(other, own, [name], FEW)[name].verdict(margin=-9) == "no verdict"
    assert gains(own, None, [name], FEW)[name].verdict(margin=-9) == "better"


@BOTH
def test_estimators_that_one_of_the_two_has_no_model_for_are_left_out_or_refused(pair, gains, estimate, known, config):
    log, other, models = pair(100)
    modelled = "cascade_dr" if pair is slate_pair else "per_decision_dr"
    assert modelled not in gains(log, other, config=FEW, model=models["model"])
    with pytest.raises(ConfigError, match=rf"'{modelled}' needs `incumbent_model`: predictions"):
        gains(log, other, [modelled], FEW, model=models["model"])
    with pytest.raises(ConfigError, match=rf"'{modelled}' needs `model`: predictions"):
        gains(log, other, [modelled], FEW, incumbent_model=models["model"])
    with pytest.raises(ConfigError, match="incumbent_model without an incumbent"):
        gains(log, None, config=FEW, **models)
    with pytest.raises(ConfigError, match="no estimator of"):
        gains(log, other, ["none"], FEW)


def test_an_incumbent_that_the_log_says_nothing_of_is_named():
    rare = SlateFeedback(np.full((2, 2), 0.5), np.full((2, 2), 0.5), np.ones(2), np.arange(2))
    other = replace(rare, target_prob=np.array([[1, 0], [0, 1.0]]))
    with pytest.raises(ConfigError, match=r"'snips' needs logged slates that .* \(of the incumbent\)"):
        slate_value_differences(rare, other, ["snips"], FEW)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"reward": np.full(40, 7.0)},
            r"value difference: reward .*first in row 0: .* and 7\.0",
        ),
        (
            {"user": np.arange(40) + (np.arange(40) > 7)},
            "value difference: user .*first in row 8: 8 and 9; expected",
        ),
        ({"behavior_prob": np.full((40, K), 1 / D)}, "value difference: behavior_prob .*first in row 0"),
        ({"slot_reward": None}, "value difference: slot_reward .* is there for only one"),
        ({"independent": False}, "value difference: independent of candidate and incumbent is True and False"),
    ],
)
def test_slates_of_two_logs_are_refused_in_one_line(changes, message):
    log, _ = logged(40, 0)
    other = replace(log, **({"slot_reward": None} if "reward" in changes else {}) | changes)
    log = replace(log, slot_reward=None) if "reward" in changes else log
    with pytest.raises(DataError, match=message) as caught:
        slate_value_differences(log, other, config=FEW)
    assert "\n" not in str(caught.value)


def test_a_log_of_fewer_slates_is_another_log():
    with pytest.raises(DataError, match=r"value difference: reward of candidate and incumbent is \(40,\) and \(30,\)"):
        slate_value_differences(logged(40, 0)[0], logged(30, 0)[0], config=FEW)


SMALL = TrajectoryFeedback(
    np.array([[1.0, 3], [2, 0]]), np.full((2, 2), 0.2), np.full((2, 2), 0.3), np.full(2, 2), np.arange(2), 0.5
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"length": np.array([2, 1])}, "value difference: length .*first in row 1: 2 and 1; expected one log"),
        ({"user": np.array([0, 0])}, "value difference: user .*first in row 1: 1 and 0"),
        ({"gamma": 1.0}, r"value difference: gamma of candidate and incumbent is 0\.5 and 1\.0"),
        ({"reward": np.array([[1.0, 2], [2, 0]])}, r"value difference: reward .*first in row 0: 3\.0 and 2\.0"),
        (
            {"behavior_prob": np.array([[0.2, 0.2], [0.2, 0.4]])},
            r"behavior_prob .*first in row 1: 0\.2 and 0\.4",
        ),
        ({"ended": np.array([True, False])}, "value difference: ended .*first in row 1: True and False"),
    ],
)
def test_sessions_of_two_logs_are_refused_in_one_line(changes, message):
    with pytest.raises(DataError, match=message) as caught:
        trajectory_value_differences(SMALL, replace(SMALL, **changes), config=FEW)
    assert "\n" not in str(caught.value)


def test_what_lies_after_the_end_of_a_session_may_differ_between_the_two():
    short = replace(SMALL, length=np.array([2, 1]))
    noise = np.array([[0, 0], [0, 0.1]])
    other = replace(
        short, reward=short.reward + noise, behavior_prob=short.behavior_prob + noise, ended=np.ones(2, dtype=bool)
    )
    assert trajectory_value_differences(short, other, ["trajectory_is"], FEW)["trajectory_is"].value == 0


def test_slot_worths_of_the_two_policies_differ():
    # or every test of a gain above would be one of nothing
    assert abs((PI * WORTH).sum() - (OTHER * WORTH).sum()) > 0.1
    assert abs(value_of(MDP_PI, 0.9) - value_of(MDP_OTHER, 0.9)) > 0.05


@BOTH
def test_equal_rewards_are_no_certainty(pair, gains, estimate, known, config):
    """All logged slot rewards are 1: every estimate and every difference keeps the width of one more reward."""
    log, other, models = pair()
    width = config.reward_range[1] - config.reward_range[0]
    if isinstance(log, SlateFeedback):
        ones = {"slot_reward": np.ones_like(log.slot_reward), "reward": log.slot_reward.shape[1] * np.ones(len(log))}
    else:
        ones = {"reward": np.ones_like(log.reward)}
    log, other = replace(log, **ones), replace(other, **ones)
    for name, difference in gains(log, other, config=config, **models).items():
        for one in (difference, difference.candidate, difference.incumbent):
            for kind in ("bootstrap", "t", "sequence"):
                assert one.intervals[kind].hi - one.intervals[kind].lo > 3 * width / len(log), (name, kind)
