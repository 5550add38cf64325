"""How well a model of steps agrees with the steps that were logged."""

import json
from dataclasses import replace

import numpy as np
import pytest
import synthetic_mdp
from hypothesis import given
from hypothesis import strategies as st
from synthetic_mdp import PI, T, exact_q, paths, q_at, sampled, split_into_sessions
from synthetic_slates import FEW, additive, at, fitted_model, logged, thousand
from synthetic_slates import PI as SLATE_PI
from synthetic_slates import WORTH as SLATE_WORTH

from recpolicy.core.errors import DataError
from recpolicy.ope.engine import (
    estimate_slates,
    estimate_trajectories,
    slate_value_differences,
    trajectory_value_differences,
)
from recpolicy.ope.feedback import TrajectoryFeedback
from recpolicy.ope.fqe import StepModel, one_step_fit, table_model
from recpolicy.ope.results import ModelFit
from recpolicy.ope.terms import discounts
from recpolicy.ope.weights import cumulative_weights

GAMMA = 0.9
EVEN = np.full((2, 2), 0.5)
"""A logging policy under which every path has a probability of so many 2,048ths."""


def every_path():
    """State, action, length of all sessions, each as often as it is logged: means are expectations."""
    chance, *found = paths(EVEN)
    times = np.rint(2_048 * chance).astype(int)
    assert times == pytest.approx(2_048 * chance)
    return tuple(np.repeat(each, times, axis=0) for each in found)


def model_at(q, found):
    return StepModel(*q_at(q, *found))


def test_the_fit_is_as_worked_out_by_hand():
    # gamma .5; predicted 1, 2 | 3; reached 1 + .5 * 4 = 3, 5 | 2 (its second step is none): errors -2, -3, 1
    log = TrajectoryFeedback(
        np.array([[1.0, 5], [2, 9]]), np.full((2, 2), 0.5), np.full((2, 2), 0.5), np.array([2, 1]), np.arange(2), 0.5
    )
    model = StepModel(np.array([[1.0, 2], [3, np.nan]]), np.array([[7.0, 4], [8, np.nan]]))
    fit = one_step_fit(log, model)
    assert (fit.rmse, fit.bias) == pytest.approx((np.sqrt(14 / 3), -4 / 3))
    assert fit.explained == pytest.approx(1 - (14 / 3) / (14 / 9))  # reached 3, 5, 2: mean 10/3, variance 14/9
    cut = one_step_fit(replace(log, ended=np.array([False, True])), model)  # 5 was not the end
    assert (cut.rmse, cut.bias) == pytest.approx((np.sqrt(5 / 2), -1 / 2))
    assert one_step_fit(replace(log, length=np.ones(2, int), ended=np.zeros(2, bool)), model) is None


def test_an_exact_model_is_off_by_nothing_on_average_whoever_logged():
    found = every_path()
    fit = one_step_fit(split_into_sessions(*found, mu=EVEN), model_at(exact_q(GAMMA), found))
    assert fit.bias == pytest.approx(0, abs=1e-12)
    assert fit.rmse > 0.3  # the next state is drawn
    state, action, length = sampled(20_000, 0)
    log = split_into_sessions(state, action, length)
    drawn = one_step_fit(log, model_at(exact_q(GAMMA), (state, action, length)))
    assert abs(drawn.bias) < 4 * drawn.rmse / np.sqrt(length.sum())


def test_where_nothing_is_random_an_exact_model_is_exact(monkeypatch):
    to_one, to_zero, to_end = np.eye(3)[[1, 0, 2]]
    monkeypatch.setattr(synthetic_mdp, "MOVE", np.array([[to_one, to_zero], [to_end, to_zero]]))
    _, *found = paths(EVEN)
    assert len(set(found[2].tolist())) > 1
    fit = one_step_fit(split_into_sessions(*found), model_at(exact_q(GAMMA), found))
    assert fit.rmse == pytest.approx(0, abs=1e-12)
    assert fit.explained == pytest.approx(1)
    off = one_step_fit(split_into_sessions(*found), model_at(exact_q(GAMMA) + 1, found))
    assert off.rmse > 0.1


@pytest.mark.parametrize("wrong", [lambda q: 0.5 * q, lambda q: q + 1, lambda q: q[:, ::-1]])
def test_a_wrong_model_fits_worse_and_is_biased(wrong):
    found = every_path()
    log = split_into_sessions(*found, mu=EVEN)
    exact, other = (one_step_fit(log, model_at(q, found)) for q in (exact_q(GAMMA), wrong(exact_q(GAMMA))))
    assert other.rmse > 1.1 * exact.rmse
    assert other.explained < exact.explained
    assert abs(other.bias) > 0.05


@given(st.lists(st.floats(-3, 3), min_size=12, max_size=12))
def test_errors_weighed_and_added_up_are_what_doubly_robust_takes_off_the_model(cells):
    found = sampled(60, 1)
    log, model = split_into_sessions(*found), model_at(np.array(cells).reshape(T, 2, 2), found)
    known = model.masked(log.is_step)
    following = np.concatenate([known.expected_q[:, 1:], np.zeros((60, 1))], axis=1)
    error = known.logged_q - log.masked_reward - GAMMA * following
    taken = (cumulative_weights(log.ratio) * np.where(log.is_step, error, 0)) @ discounts(T, GAMMA)
    both = estimate_trajectories(log, ["fqe", "per_decision_dr"], replace(FEW, resamples=1), model=model)
    assert taken.mean() == pytest.approx(both["fqe"].value - both["per_decision_dr"].value, abs=1e-9)


def test_results_of_sessions_tell_the_fit_of_their_model_and_of_no_other():
    found = sampled(2_000, 0)
    log = split_into_sessions(*found)
    model = table_model(log, found[0], found[1], PI, FEW)
    told = estimate_trajectories(log, config=FEW, model=model)
    fit = one_step_fit(log, model)
    assert {name for name in told if told[name].model is not None} == {"per_decision_dr", "fqe"}
    assert told["fqe"].model == told["per_decision_dr"].model == fit
    assert 0.2 < fit.explained < 1
    assert json.loads(json.dumps(told.as_dict(), allow_nan=False))["estimators"]["fqe"]["model"]["rmse"] == fit.rmse
    half = StepModel(0.5 * model.logged_q, 0.5 * model.expected_q)
    gain = trajectory_value_differences(log, log, ["fqe"], FEW, model=model, incumbent_model=half)["fqe"]
    assert gain.candidate.model == fit
    assert gain.incumbent.model == one_step_fit(log, half)


def exact_slate_model(items):
    """Q of additive slates: the slot's worth and what the target earns below."""
    wanted = (SLATE_PI * SLATE_WORTH).sum(axis=1)  # [K]
    below = wanted[::-1].cumsum()[::-1] - wanted
    return StepModel(at(SLATE_WORTH, items) + below, np.broadcast_to(wanted + below, items.shape))


def test_an_exact_model_of_slates_that_pay_their_worth_leaves_nothing_over():
    log = thousand(additive)
    items = np.argmax(log.slot_reward[..., None] == SLATE_WORTH, axis=2)
    told = estimate_slates(log, config=FEW, model=exact_slate_model(items))
    assert {name for name in told if told[name].model is not None} == {"cascade_dr"}
    fit = told["cascade_dr"].model
    assert (fit.rmse, fit.bias, fit.explained) == pytest.approx((0, 0, 1), abs=1e-12)


def test_slots_paid_by_coin_leave_noise_over_and_a_wrong_model_bias():
    log, items = logged(4_000, 0, earn=additive)
    exact, fitted = exact_slate_model(items), fitted_model(log, items)
    none = StepModel(0 * exact.logged_q, 0 * exact.expected_q)
    found = slate_value_differences(log, log, ["cascade_dr"], FEW, model=exact, incumbent_model=none)["cascade_dr"]
    good, bad = found.candidate.model, found.incumbent.model
    assert abs(good.bias) < 4 * good.rmse / np.sqrt(items.size)
    assert bad.bias == pytest.approx(-log.slot_reward.mean())
    assert good.rmse < bad.rmse
    assert estimate_slates(log, ["cascade_dr"], FEW, model=fitted)["cascade_dr"].model.explained > 0


def test_a_fit_of_what_never_varies_explains_nothing():
    fit = ModelFit.from_predictions(np.array([1.0, 2]), np.array([1.0, 1]))
    assert (fit.rmse, fit.bias) == pytest.approx((np.sqrt(0.5), 0.5))
    assert np.isnan(fit.explained)


def test_a_model_of_another_log_is_refused():
    with pytest.raises(DataError, match=r"step model: logged_q \(3, 3\)"):
        one_step_fit(split_into_sessions(*sampled(4, 0)), StepModel(np.zeros((3, 3)), np.zeros((3, 3))))
