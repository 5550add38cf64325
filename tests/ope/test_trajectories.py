import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_mdp import MU, PI, T, exact_q, paths, q_at, sampled, split_into_sessions, value_of

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.ope.config import MultiStepConfig
from recpolicy.ope.engine import estimate_trajectories
from recpolicy.ope.estimators import TRAJECTORY_ESTIMATORS
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.fqe import StepModel, table_model
from recpolicy.ope.reward_model import user_folds
from recpolicy.ope.terms import per_decision_dr_terms, per_decision_terms, returns, weighted_per_decision_terms
from recpolicy.ope.weights import cumulative_weights

FEW = MultiStepConfig(resamples=100)
GAMMA = 0.9
VALUE = value_of(PI, GAMMA)
CHANCE, STATE, ACTION, LENGTH = paths()
ALL = split_into_sessions(STATE, ACTION, LENGTH, gamma=GAMMA)
PREDICTED, DIRECT = (np.nan_to_num(found) for found in q_at(exact_q(GAMMA), STATE, ACTION, LENGTH))

# Two sessions of two steps: Y = [[2, .5], [.5, 4]], so W = [[2, 1], [.5, 2]]; r = [[1, 3], [2, 0]], gamma .5.
RATIO, PAID = np.array([[2, 0.5], [0.5, 4]]), np.array([[1.0, 3], [2, 0]])
WEIGHT = cumulative_weights(RATIO)
SMALL = TrajectoryFeedback(PAID, np.full((2, 2), 0.2), RATIO * 0.2, np.full(2, 2), np.arange(2), 0.5)
MODEL = StepModel(np.array([[1.0, 1], [1, 1]]), np.array([[2.0, 1], [2, 1]]))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("trajectory_is", 3.25),  # returns 2.5 and 2 with weights 1 and 2
        ("trajectory_wis", 6.5 / 3),
        ("per_decision_is", 2.25),  # W r is 2 and 1 at once, 3 and 0 at half
        ("per_decision_wis", 1.7),  # 3 / 2.5 + .5 * 3 / 3
        ("per_decision_dr", 2.875),  # 2 + .5 (2 + 2) = 4 and 2 + .5 + .5 (.5 - 2) = 1.75
        ("fqe", 2.0),
    ],
)
def test_two_sessions_are_as_worked_out_by_hand(name, expected):
    assert estimate_trajectories(SMALL, [name], FEW, model=MODEL)[name].value == pytest.approx(expected)


def expectation(terms, chance=CHANCE):
    return chance @ terms


def test_the_paths_are_all_there_are():
    assert CHANCE.sum() == pytest.approx(1)
    assert {1, 2, 3} == set(LENGTH.tolist())
    assert paths(PI)[0] @ returns(ALL.masked_reward, GAMMA) == pytest.approx(VALUE)
    assert expectation(returns(ALL.masked_reward, GAMMA)) == pytest.approx(value_of(MU, GAMMA))


def test_trajectory_and_per_decision_forms_are_unbiased_and_the_mean_return_is_not():
    weight = cumulative_weights(ALL.ratio)
    assert expectation(weight[:, -1] * returns(ALL.masked_reward, GAMMA)) == pytest.approx(VALUE)
    assert expectation(per_decision_terms(weight, ALL.masked_reward, GAMMA)) == pytest.approx(VALUE)
    assert abs(expectation(returns(ALL.masked_reward, GAMMA)) - VALUE) > 0.15


def test_every_cumulative_weight_has_mean_one():
    assert CHANCE @ cumulative_weights(ALL.ratio) == pytest.approx(np.ones(T))


@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_doubly_robust_is_unbiased_with_any_q(cells):
    q = np.array(cells).reshape(T, 2, 2)
    predicted, direct = (np.nan_to_num(found) for found in q_at(q, STATE, ACTION, LENGTH))
    weight = cumulative_weights(ALL.ratio)
    assert expectation(per_decision_dr_terms(weight, ALL.masked_reward, predicted, direct, GAMMA)) == pytest.approx(
        VALUE
    )


def spread(terms):
    return float(CHANCE @ (terms - CHANCE @ terms) ** 2)


def test_per_decision_forms_vary_less_than_whole_sessions_and_exact_q_least():
    weight = cumulative_weights(ALL.ratio)
    whole = spread(weight[:, -1] * returns(ALL.masked_reward, GAMMA))
    stepwise = spread(per_decision_terms(weight, ALL.masked_reward, GAMMA))
    robust = spread(per_decision_dr_terms(weight, ALL.masked_reward, PREDICTED, DIRECT, GAMMA))
    assert robust < 0.5 * stepwise < 0.5 * whole


def test_wrong_propensities_bias_all_but_doubly_robust_with_exact_q():
    wrong = split_into_sessions(STATE, ACTION, LENGTH, gamma=GAMMA, mu=np.full((2, 2), 0.5))
    weight = cumulative_weights(wrong.ratio)
    assert abs(expectation(per_decision_terms(weight, wrong.masked_reward, GAMMA)) - VALUE) > 0.2
    assert abs(expectation(weight[:, -1] * returns(wrong.masked_reward, GAMMA)) - VALUE) > 0.2
    robust = per_decision_dr_terms(weight, wrong.masked_reward, PREDICTED, DIRECT, GAMMA)
    assert expectation(robust) == pytest.approx(VALUE)
    other = per_decision_dr_terms(weight, wrong.masked_reward, 0.5 * PREDICTED, 0.5 * DIRECT, GAMMA)
    assert abs(expectation(other) - VALUE) > 0.05


def test_a_session_of_one_step_is_a_single_choice():
    one = TrajectoryFeedback(PAID[:, :1], np.full((2, 1), 0.2), RATIO[:, :1] * 0.2, np.ones(2, int), np.arange(2), 0.3)
    found = estimate_trajectories(one, config=FEW)
    assert found["trajectory_is"].value == found["per_decision_is"].value == pytest.approx(1.5)  # (2 + 1) / 2
    assert found["trajectory_wis"].value == pytest.approx(found["per_decision_wis"].value)


def test_the_logging_policy_itself_earns_the_mean_return():
    state, action, length = sampled(200, 0)
    log = split_into_sessions(state, action, length, pi=MU)
    for result in estimate_trajectories(log, config=FEW).values():
        assert result.value == pytest.approx(returns(log.masked_reward, GAMMA).mean())
        assert result.diagnostics.effective_sample_size == pytest.approx(200)


@given(st.floats(-5, 5))
def test_weighted_per_decision_moves_with_the_rewards(shift):
    moved = weighted_per_decision_terms(WEIGHT, PAID + shift, 0.5).mean()
    assert moved == pytest.approx(weighted_per_decision_terms(WEIGHT, PAID, 0.5).mean() + 1.5 * shift)


def test_what_lies_after_the_end_of_a_session_is_not_read():
    state, action, length = sampled(100, 0)
    log = split_into_sessions(state, action, length)
    noise = np.where(log.is_step, 0.0, 7.0)
    other = TrajectoryFeedback(
        np.nan_to_num(log.reward) + noise,
        np.nan_to_num(log.behavior_prob) + noise,
        np.nan_to_num(log.target_prob) + noise,
        length,
        log.user,
        GAMMA,
    )
    model = StepModel(*q_at(exact_q(GAMMA), state, action, length))
    first, second = (estimate_trajectories(each, config=FEW, model=model) for each in (log, other))
    assert {name: first[name].value for name in first} == {name: second[name].value for name in second}


@pytest.mark.parametrize("users", [None, 150])
def test_every_estimate_is_near_the_truth_within_its_intervals(users):
    state, action, length = sampled(4_000, 1)
    user = None if users is None else np.random.default_rng(0).integers(users, size=4_000)
    log = split_into_sessions(state, action, length, user=user)
    model = StepModel(*q_at(exact_q(GAMMA), state, action, length))
    found = estimate_trajectories(log, config=FEW, model=model)
    assert list(found) == list(TRAJECTORY_ESTIMATORS)
    for name, result in found.items():
        error = (result.intervals["t"].hi - result.value) / 1.96
        assert abs(result.value - VALUE) < 4 * error, name
        assert result.intervals["sequence"].hi > result.intervals["t"].hi
        width = result.intervals["bootstrap"].hi - result.intervals["bootstrap"].lo
        assert width == pytest.approx(4 * error, rel=0.35), name  # 100 resamples


def test_intervals_cover_the_truth_about_as_often_as_they_say():
    held = {
        (name, kind): 0
        for name in ("per_decision_is", "per_decision_wis", "per_decision_dr")
        for kind in ("t", "bootstrap")
    }
    for seed in range(100):
        state, action, length = sampled(400, seed)
        log = split_into_sessions(state, action, length)
        model = table_model(log, state, action, PI, FEW)
        found = estimate_trajectories(log, ["per_decision_is", "per_decision_wis", "per_decision_dr"], FEW, model=model)
        for name, kind in held:
            held[name, kind] += found[name].intervals[kind].lo <= VALUE <= found[name].intervals[kind].hi
    assert min(held.values()) >= 87  # .95 less 4 standard errors of .0218


def test_wrong_propensities_are_caught_by_the_mean_weight():
    state, action, length = sampled(4_000, 2)
    wrong = split_into_sessions(state, action, length, mu=np.full((2, 2), 0.5))
    found = estimate_trajectories(wrong, ["per_decision_is"], FEW)["per_decision_is"]
    assert found.diagnostics.mean_weight_z > 8
    assert not found.intervals["t"].lo <= VALUE <= found.intervals["t"].hi


def test_forms_that_weigh_step_by_step_are_judged_by_their_worst_step():
    """Two steps of which the first has the heavier weights: 3 or 1/3, then the reverse, so that all end with 1."""
    target = np.tile([[0.75, 0.25], [0.25, 0.75]], (200, 1))
    logged = target[:, ::-1]
    log = TrajectoryFeedback(np.ones((400, 2)), logged, target, np.full(400, 2), np.arange(400))
    found = estimate_trajectories(log, config=FEW)
    assert found["trajectory_is"].diagnostics.effective_sample_size == pytest.approx(400)
    first = np.tile([3, 1 / 3], 200)
    assert found["per_decision_is"].diagnostics.effective_sample_size == pytest.approx(
        first.sum() ** 2 / (first @ first)
    )
    assert found["per_decision_wis"].diagnostics.max_weight == pytest.approx(3)


def test_few_effective_sessions_give_no_verdict():
    state, action, length = sampled(40, 0)
    found = estimate_trajectories(split_into_sessions(state, action, length), ["trajectory_wis"], FEW)["trajectory_wis"]
    assert found.diagnostics.effective_sample_size < 50
    assert found.verdict == "no verdict"


@pytest.mark.parametrize("name", TRAJECTORY_ESTIMATORS)
def test_an_estimate_is_what_the_bootstrap_would_say_of_the_log_itself(name):
    state, action, length = sampled(60, 3)
    log = split_into_sessions(state, action, length, user=np.zeros(60, int) + (np.arange(60) % 2))
    model = StepModel(*q_at(exact_q(GAMMA), state, action, length))
    doubled = split_into_sessions(
        *(np.concatenate([each, each]) for each in (state, action, length)), user=np.repeat([0, 1], 60)
    )  # two alike users: every resample is the log
    twice = StepModel(*(np.concatenate([each, each]) for each in (model.logged_q, model.expected_q)))
    one = estimate_trajectories(log, [name], FEW, model=model)[name]
    two = estimate_trajectories(doubled, [name], FEW, model=twice)[name]
    assert one.value == pytest.approx(two.value)
    interval = two.intervals["bootstrap"]
    assert (interval.lo + interval.hi) / 2 == pytest.approx(two.value)  # its width is that of rare rewards alone


def test_results_are_plain_json_with_their_settings():
    found = estimate_trajectories(SMALL, config=FEW).as_dict()
    assert json.loads(json.dumps(found, allow_nan=False))["config"]["folds"] == 2


def test_users_are_dealt_whole_to_folds():
    state, action, length = sampled(50, 0)
    log = split_into_sessions(state, action, length, user=np.arange(50) % 7)
    fold = user_folds(log.clusters, 3, 0)
    assert sorted(set(fold.tolist())) == [0, 1, 2]
    assert all(len(set(fold[log.user == user].tolist())) == 1 for user in range(7))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward": np.zeros((0, 2))}, r"reward \(0, 2\); expected \(N, T\)"),
        ({"length": np.array([2])}, r"length \(1,\); expected \(2,\)"),
        ({"length": np.array([2, 3])}, r"row 1: length 3; expected 1\.\.2"),
        ({"user": np.array([0.0, 1])}, "user is float64; expected whole numbers"),
        ({"gamma": 1.5}, r"gamma is 1\.5; expected 0\.\.1"),
        ({"behavior_prob": np.array([[0.2, 0], [0.2, 0.2]])}, "row 0: behavior_prob .* expected above 0"),
        ({"target_prob": np.array([[0.2, 0.2], [1.2, 0.2]])}, "row 1: target_prob"),
        ({"reward": np.array([[1, np.nan], [0, 0]])}, "row 0: reward .*expected finite"),
    ],
)
def test_a_log_that_is_not_one_is_refused(changes, message):
    fields = {"reward": PAID, "behavior_prob": np.full((2, 2), 0.2), "target_prob": np.full((2, 2), 0.2)}
    fields |= {"length": np.full(2, 2), "user": np.arange(2)}
    with pytest.raises(DataError, match=message):
        TrajectoryFeedback(**fields | changes)


def test_weights_too_large_for_a_number_are_refused():
    with pytest.raises(DataError, match=r"row 1: the product of pi / mu up to step 2 is too large"):
        cumulative_weights(np.array([[1, 1, 1], [1e200, 1e100, 1e100]]))


@pytest.mark.parametrize(
    ("name", "model", "error", "message"),
    [
        ("fqe", None, ConfigError, "'fqe' needs `model`"),
        ("per_decision_si", None, ConfigError, "Did you mean 'per_decision_is'"),
        ("fqe", StepModel(np.zeros((2, 3)), np.zeros((2, 2))), DataError, r"logged_q \(2, 3\); expected \(2, 2\)"),
        ("fqe", StepModel(np.zeros((2, 2)), np.full((2, 2), np.nan)), DataError, "expected_q has values"),
    ],
)
def test_what_cannot_be_estimated_says_why(name, model, error, message):
    with pytest.raises(error, match=message):
        estimate_trajectories(SMALL, [name], FEW, model=model)


@pytest.mark.parametrize(
    ("settings", "message"), [({"level": 95}, "level is 95"), ({"resamples": -1}, "resamples"), ({"folds": 1}, "folds")]
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MultiStepConfig(**settings)


def test_ratios_are_left_out_or_refused_where_no_logged_session_speaks_of_the_target():
    nothing = TrajectoryFeedback(PAID, np.full((2, 2), 0.2), np.array([[0.2, 0], [0, 0.2]]), SMALL.length, SMALL.user)
    assert list(estimate_trajectories(nothing, config=FEW)) == ["trajectory_is", "per_decision_is"]
    for name in ("trajectory_wis", "per_decision_wis"):
        with pytest.raises(ConfigError, match="needs logged sessions that the target might produce as a whole"):
            estimate_trajectories(nothing, [name], FEW)


def test_a_single_user_is_refused():
    state, action, length = sampled(10, 0)
    log = split_into_sessions(state, action, length, user=np.zeros(10, int))
    with pytest.raises(DataError, match="single user"):
        estimate_trajectories(log, ["per_decision_is"], FEW)


@pytest.mark.parametrize("name", TRAJECTORY_ESTIMATORS)
def test_every_estimator_has_its_row_on_the_page(name):
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "off_policy_slates.md").read_text()
    assert page.count(f"\n| `{name}` | ") >= 1
