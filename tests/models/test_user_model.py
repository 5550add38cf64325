"""Response models on ratings whose responses we planted, and on the real MovieLens."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from synthetic_responses import LIKE_HISTORY, STAY_HISTORY, STEPS, planted_responses

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.environments.session_dynamics import NOISE_DIMS, SessionTables, begin, like_odds, transition
from recpolicy.models.logistic import sigmoid
from recpolicy.models.session_history import Preferences, compute_history
from recpolicy.models.session_world import LIKE_LEVEL
from recpolicy.models.user_model import SessionWorldConfig, fit_session_world, fit_user_model, world_from_user_model
from recpolicy.models.user_model_fits import fit_levels, fit_stay, watch_levels

PLAIN = SessionWorldConfig(max_steps=STEPS, rank=4, drift=0.0, fatigue_genre=0.0, fatigue_misses=0.0)


@cache
def planted():
    return planted_responses()


@cache
def learnt(fatigue=0.0):
    config = replace(PLAIN, fatigue_genre=fatigue, fatigue_misses=fatigue)
    return fit_user_model(planted().ratings, np.arange(0, 240, 2), config, seed=0)


def true_history(drift_table=None):
    """History of all planted sessions, with the planted tastes."""
    ratings, world = planted().ratings, planted().world
    sessions = split_into_sessions(ratings)
    tastes = Preferences(world.interest, world.direction, world.genres, world.interest_decay, world.genre_decay)
    like = watch_levels(ratings.rating, ratings.scale)[sessions.rows] >= LIKE_LEVEL
    return sessions, compute_history(sessions, ratings.item[sessions.rows], like, tastes)


def test_history_is_that_of_the_environment():
    """Real responses are forced on the environment as known levels; its odds must be those of our features."""
    world = replace(planted().world, slope=0.7)
    ratings = planted().ratings
    known = np.full(world.like.shape, -1, np.int8)
    known[ratings.user, ratings.item] = watch_levels(ratings.rating, ratings.scale)
    items = np.arange(world.like.shape[1], dtype=np.int32)
    forced, free = SessionTables(replace(world, known=known), items), SessionTables(world, items)
    sessions, history = true_history()
    chosen = np.flatnonzero(sessions.length >= 6)[:40]
    state = begin(free, tf.zeros(len(chosen)))._replace(user=tf.constant(sessions.user[chosen]))
    for step in range(6):
        row = sessions.start[chosen] + step
        shown = ratings.item[sessions.rows[row]]
        odds = like_odds(free, state).numpy()[np.arange(len(chosen)), shown]
        ours = (
            world.like[sessions.user[chosen], shown]
            + 0.7 * history.drift[row]
            + np.column_stack([history.repeat, history.misses])[row] @ LIKE_HISTORY
        )
        np.testing.assert_allclose(odds, ours, atol=1e-4)
        state, _ = transition(forced, state, tf.constant(shown), tf.fill([len(chosen), NOISE_DIMS], 0.5))
        np.testing.assert_allclose(state.misses, history.misses_after[row], atol=1e-6)


def test_planted_weights_are_recovered():
    responses = learnt()
    np.testing.assert_allclose(responses.like.history, LIKE_HISTORY, atol=0.45)
    np.testing.assert_allclose(responses.stay.history, STAY_HISTORY, atol=0.6)
    assert 0.3 < responses.stay.spread < 0.7  # 0.5 was planted
    np.testing.assert_allclose(responses.levels[:, 1], planted().world.levels[:, 1], atol=0.2)


def test_levels_are_recovered_from_the_true_odds():
    sessions, history = true_history()
    ratings, world = planted().ratings, planted().world
    row = sessions.rows
    odds = world.like[ratings.user[row], ratings.item[row]].astype(float)
    odds += np.column_stack([history.repeat, history.misses]) @ LIKE_HISTORY
    found = fit_levels(odds, watch_levels(ratings.rating[row], ratings.scale))
    np.testing.assert_allclose(found, world.levels, atol=0.2)


def test_calibration_learns_from_predictions_that_have_not_seen_the_rating():
    """In-sample predictions would claim a steeper slope than unseen ratings keep."""
    from recpolicy.models.logistic import fit_logistic

    responses, ratings = learnt(), planted().ratings
    inside = responses.model.mean[ratings.user, ratings.item].astype(float)
    like = ratings.rating >= 4
    steep = fit_logistic(np.column_stack([np.ones(len(like)), inside]), like).weight[1]
    assert responses.like.slope < 0.9 * steep


def test_fatigue_is_added_to_what_was_fitted_and_leaves_real_lengths_as_they_are():
    without, fatigued = learnt(), learnt(2.0)
    np.testing.assert_allclose(fatigued.stay.history, without.stay.history - 2.0, atol=1e-9)
    sessions = split_into_sessions(planted().ratings)
    mine = (sessions.user % 2 == 0)[sessions.session] & (sessions.position < STEPS - 1)
    goes_on = (sessions.position + 1 < sessions.length[sessions.session])[mine]
    like = watch_levels(planted().ratings.rating, (1, 5))[sessions.rows] >= LIKE_LEVEL
    expected = []
    for responses in (without, fatigued):
        history = compute_history(sessions, planted().ratings.item[sessions.rows], like, responses.tastes)
        user, step = sessions.user[sessions.session][mine], sessions.position[mine]
        odds = responses.stay.curve[step] + responses.stay.habit[user] + responses.stay.user[user]
        odds += (np.column_stack([history.repeat, history.misses_after]) @ responses.stay.history)[mine]
        expected.append(sigmoid(odds).mean())
    assert expected == pytest.approx([goes_on.mean()] * 2, abs=2e-3)


def test_lengths_are_geometric_where_going_on_is_constant():
    """Mean 1 / (1 - c) before the cut; the fitted hazard is flat at c."""
    data = planted_responses(seed=3, stay=0.8)
    sessions = split_into_sessions(data.ratings)
    cut_mean = (1 - 0.8**STEPS) / (1 - 0.8)
    assert sessions.length.mean() == pytest.approx(cut_mean, abs=4 * 3.3 / np.sqrt(len(sessions)))
    zero = np.zeros(len(data.ratings))
    history = replace(true_history()[1], repeat=zero, misses=zero, misses_after=zero, drift=zero)
    stay = fit_stay(sessions, history, STEPS, np.bincount(sessions.user), (0.0, 0.0))
    np.testing.assert_allclose(sigmoid(stay.curve), 0.8, atol=0.03)
    assert stay.spread < 0.2


def test_a_step_at_the_cut_says_nothing():
    """Sessions that end exactly at S and ones that go on there give the same fit."""
    sessions = split_into_sessions(planted().ratings)
    _, history = true_history()
    visits = np.bincount(sessions.user)
    ended = fit_stay(sessions, history, 5, visits, (0.0, 0.0))
    longer = replace(sessions, length=np.where(sessions.length >= 5, 99, sessions.length))
    np.testing.assert_array_equal(fit_stay(longer, history, 5, visits, (0.0, 0.0)).curve, ended.curve)


def test_the_world_is_laid_out_for_the_users_asked_for():
    responses = learnt()
    world = world_from_user_model(responses, np.array([7, 3, 3, 4]), seed=1)
    assert world.users.tolist() == [3, 4, 7]
    assert world.steps == STEPS
    expected = responses.like.intercept + responses.like.slope * responses.model.mean[[3, 4, 7]]
    np.testing.assert_allclose(world.like, expected, rtol=1e-5)
    known, drawn = responses.stay.user[4], world.stay[[0, 2], 0] - responses.stay.curve[0]
    assert world.stay[1, 0] == pytest.approx(responses.stay.curve[0] + responses.stay.habit[4] + known, rel=1e-5)
    assert not np.isclose(*drawn)  # users not learnt from go on as drawn ones would
    assert world.digest == world_from_user_model(responses, np.array([3, 4, 7]), seed=1).digest
    assert world.digest != world_from_user_model(responses, np.array([3, 4, 7]), seed=2).digest


def test_users_that_are_not_learnt_from_leave_no_trace_in_the_responses():
    """Turning their ratings upside down changes the rating model, not the hazard of others."""
    ratings = planted().ratings
    other = ratings.user % 2 == 1
    turned = replace(ratings, rating=np.where(other, 6 - ratings.rating, ratings.rating))
    again = fit_user_model(turned, np.arange(0, 240, 2), PLAIN, seed=0)
    assert again.like.slope != learnt().like.slope  # the rating model has changed
    np.testing.assert_allclose(again.stay.history, learnt().stay.history, atol=1e-6)
    np.testing.assert_allclose(again.stay.curve, learnt().stay.curve, atol=1e-6)


@pytest.mark.parametrize(
    ("rating", "scale", "levels"),
    [
        ([1, 2, 3, 4, 5], (1, 5), [0, 1, 2, 3, 4]),
        ([0.5, 2, 3, 4, 5], (0.5, 5), [0, 1, 2, 3, 4]),
        ([0, 100], (0, 100), [0, 4]),
    ],
)
def test_ratings_of_any_scale_become_quarters(rating, scale, levels):
    assert watch_levels(np.array(rating), scale).tolist() == levels


@pytest.mark.parametrize(
    "setting",
    [
        {"gap_minutes": 0},
        {"max_steps": 1},
        {"folds": 1},
        {"drift": -1},
        {"interest_decay": 0},
        {"genre_decay": 1},
        {"fatigue_genre": -1},
    ],
)
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        SessionWorldConfig(**setting)


def test_timestamps_that_show_no_sessions_are_told(caplog):
    ratings = planted().ratings
    day = np.arange(len(ratings)) * 86_400
    few = np.arange(0, 240, 2)
    fit_user_model(replace(ratings, timestamp=day), few, PLAIN, seed=0)
    assert "a session has 1.0 ratings on average (gaps of up to 30 minutes)" in caplog.text
    caplog.clear()
    fit_user_model(ratings, few, PLAIN, seed=0)
    assert caplog.text == ""


def test_users_without_ratings_teach_nothing():
    with pytest.raises(DataError, match="none of the 1 users"):
        fit_session_world(planted().ratings.take(planted().ratings.user != 5), np.array([5]), np.array([6]), PLAIN)


@pytest.mark.band
def test_real_sessions_do_not_show_the_assumed_mechanisms(u1):
    """What the page says of drift and fatigue, on the train part of u1: drift below 0, fatigue far below the
    assumed."""
    from recpolicy.models.logistic import fit_logistic

    responses = fit_user_model(u1.train, np.arange(943), SessionWorldConfig(drift=0.0), seed=0)
    sessions = split_into_sessions(u1.train).cut(20)
    like = u1.train.rating[sessions.rows] >= 4
    history = compute_history(sessions, u1.train.item[sessions.rows], like, responses.tastes)
    columns = np.column_stack(
        [np.ones(len(like)), responses.expected[sessions.rows], history.drift, history.repeat, history.misses]
    )
    weight = fit_logistic(columns, like).weight
    assert -1.5 < weight[2] / weight[1] < 0
    fitted = responses.stay.history + np.array([4.0, 2.0])
    assert -1.0 < fitted[0] < 0.5
    assert -1.2 < fitted[1] < 0
