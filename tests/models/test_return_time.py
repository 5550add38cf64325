"""Return times: the truncated geometric distribution, gaps of logs, the fit, and its calibration."""

import numpy as np
import pytest
from hand_sessions import hand_sessions

from recpolicy.core.errors import DataError
from recpolicy.models.return_time import (
    DAY_SECONDS,
    ReturnTimes,
    calibration,
    day_probabilities,
    expected_days,
    fit_return_model,
    return_rate,
    return_times,
    return_times_of_log,
    return_times_of_ratings,
)

HOUR = 3600
DAY = DAY_SECONDS


def test_expected_days_and_first_days_of_the_truncated_geometric_distribution():
    p = np.array([0.2, 0.3, 0.4, 0.5, 0.6, 0.8])
    np.testing.assert_allclose(
        expected_days(p), [3.797098, 3.042647, 2.439166, 1.990225, 1.665618, 1.249999], atol=5e-7
    )
    first = [0.224058, 0.308721, 0.402433, 0.500489, 0.600063, 0.800000]
    np.testing.assert_allclose(day_probabilities(p)[:, 0], first, atol=5e-7)
    np.testing.assert_allclose(day_probabilities(p).sum(axis=1), 1)


def test_gaps_become_days_and_last_sessions_are_censored():
    # User 3: sessions of an hour; back after 2 hours (day 1), after 1.5 days (day 2), after 20 days (later than 10).
    start = np.array([0, 3 * HOUR, 4 * HOUR + 36 * HOUR, 41 * HOUR + 20 * DAY, 5 * DAY])
    times = return_times(np.array([3, 3, 3, 3, 7]), start, start + HOUR, 42 * HOUR + 24 * DAY)
    assert times.day.tolist() == [1, 2, 11, 4, 10]  # the last two: days without a return, at most 10
    assert times.observed.tolist() == [True, True, True, False, False]
    assert times.within.tolist() == [True, True, False, False, False]
    assert times.returning_users == 1
    model = fit_return_model(times, users=8)
    assert (model.users, model.gaps, model.late, model.censored, model.left) == (1, 2, 1, 2, 1)


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ([0, 50], [100, 200], "user row 5: session from 0 to 100: -50 seconds; expected each return after"),
        (
            [0, 300],
            [100, 200],
            "session from 300 to 200: -100 seconds; expected its last request at or after its first",
        ),
        ([0, 300], [100, 4000], "session from 300 to 4000: -3000 seconds; expected sessions that end by second 1000"),
    ],
)
def test_times_that_cannot_be_are_one_clear_line(start, end, message):
    with pytest.raises(DataError, match=message) as caught:
        return_times(np.array([5, 5]), np.array(start), np.array(end), 1000)
    assert "\n" not in str(caught.value)


def test_returns_of_a_log_join_by_user_and_censor_the_last_session():
    # Sessions start on days 0 (user 0), 1 (user 3), 2 (user 1) and 3 (user 0) and take minutes; the log ends on day 5.
    log = hand_sessions()
    until = int(log.time[0] // 1000) + 5 * DAY
    times = return_times_of_log(log, until)
    assert times.user.tolist() == [0, 0, 1, 3]
    assert times.observed.tolist() == [True, False, False, False]
    assert times.day.tolist() == [3, 1, 2, 4]  # user 0: 3 days less some minutes; then full days without a return
    returned, user = return_rate(times, 2)
    assert returned.tolist() == [0, 0, 0]  # the session of day 3 is censored after one day: nobody knows
    assert user.tolist() == [0, 1, 3]
    assert return_rate(times, 3)[0].tolist() == [1, 0]
    with pytest.raises(DataError, match="expected sessions that end by second"):
        return_times_of_log(log, until - 3 * DAY)
    with pytest.raises(DataError, match="return rate within 11 days; expected 1 to 10"):
        return_rate(times, 11)


def test_the_return_rate_is_not_biased_near_the_end_of_a_log():
    # 3,000 users come back after d days with probability .1 .9^(d-1), again and again; the log ends after 14 days.
    rng = np.random.default_rng(0)
    gaps = rng.geometric(0.1, (3000, 15))
    start = np.concatenate([np.zeros((3000, 1), int), np.cumsum(gaps, axis=1)], axis=1) * DAY
    inside = start <= 14 * DAY
    user = np.broadcast_to(np.arange(3000)[:, None], start.shape)[inside]
    times = return_times(user, start[inside], start[inside], 14 * DAY)
    for days in (3, 7, 10):
        assert return_rate(times, days)[0].mean() == pytest.approx(1 - 0.9**days, abs=0.02)


def test_users_without_returns_are_censored_and_counted():
    lonely = return_times(np.array([0, 1]), np.array([0, 5]), np.array([1, 6]), 100)
    with pytest.raises(DataError, match="no return within 10 days in 2 sessions, 2 of them censored"):
        fit_return_model(lonely, 2)
    with pytest.raises(DataError, match="no held-out user comes back within 10 days"):
        calibration(fit_return_model(planted(20, 5), 20), lonely)


def planted(users: int, gaps: int, mean: float = -0.5, std: float = 1.0, seed: int = 0) -> ReturnTimes:
    """Gaps of users whose logit p is normal."""
    rng = np.random.default_rng(seed)
    mass = day_probabilities(1 / (1 + np.exp(-rng.normal(mean, std, users))))
    day = (rng.random((users, gaps, 1)) > np.cumsum(mass, axis=1)[:, None]).sum(axis=2) + 1
    user = np.repeat(np.arange(users, dtype=np.int32), gaps)
    return followed_up(user, np.minimum(day, 10).ravel(), np.ones(users * gaps, bool))


def followed_up(user, day, observed) -> ReturnTimes:
    """Gaps of sessions that ended long before the data."""
    return ReturnTimes(user, day, observed, np.full(len(user), 99))


def test_the_fit_recovers_the_population_and_the_users():
    model = fit_return_model(planted(1500, 6), 1500)
    assert model.mean == pytest.approx(-0.5, abs=0.2)
    assert model.std == pytest.approx(1.0, abs=0.2)
    rng = np.random.default_rng(0)
    drawn = model.draw(np.arange(1500), rng)
    assert drawn.mean() == pytest.approx(-0.5, abs=0.15)
    assert drawn.std() == pytest.approx(1.0, abs=0.15)
    # A user who always came back on day 1 has a higher p than one who never did before day 10.
    extremes = followed_up(np.repeat([0, 1], 5).astype(np.int32), np.repeat([1, 10], 5), np.ones(10, bool))
    first, tenth = fit_return_model(extremes, 3).day_probabilities(np.array([0, 1]))[:, 0]
    assert first > tenth


def test_a_session_that_is_still_out_lowers_the_return_probability():
    few = planted(40, 2)
    waiting = followed_up(
        np.append(few.user, 0).astype(np.int32), np.append(few.day, 9), np.append(few.observed, False)
    )
    before, after = (fit_return_model(times, 40).day_probabilities(np.array([0]))[0, 0] for times in (few, waiting))
    assert after < before


def test_calibration_is_close_for_the_same_population_and_not_for_another():
    model = fit_return_model(planted(800, 4), 2000)
    same, other = (
        calibration(model, shifted(planted(800, 4, seed=1))),
        calibration(model, shifted(planted(800, 4, 1.5))),
    )
    assert same.users == 800
    assert same.gaps == 3200
    assert same.ks < 0.04
    assert same.predicted_days == pytest.approx(same.observed_days, abs=0.15)
    assert other.ks > 0.2


def shifted(times: ReturnTimes) -> ReturnTimes:
    """The same gaps of other users, whom the fit did not see."""
    return followed_up((times.user + 1000).astype(np.int32), times.day, times.observed)


@pytest.mark.band
def test_first_returns_of_movielens_are_sooner_than_the_model_says(u1):
    times = return_times_of_ratings(u1.train)
    assert times.returning_users == 379
    half = times.of_users(np.arange(0, 943, 2))
    held_out = calibration(fit_return_model(half, 943), times.of_users(np.arange(1, 943, 2)))
    assert 0.15 < held_out.ks < 0.3
    assert held_out.observed_day_1 > held_out.predicted_day_1 + 0.15
