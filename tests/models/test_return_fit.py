"""The fit of return times of sessions: planted users, held-out calibration, figures, and the file."""

import json

import numpy as np
import pytest

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.data.session_returns import DAY_MS, SessionReturns
from recpolicy.models.return_fit import fit_returns, read_return_model, write_return_model
from recpolicy.models.return_time import day_probabilities, noted_times, population_days

USERS, SESSIONS = 200, 12


def planted(p=0.5, seed=0):
    """Sessions of users who all come back with the probability p of a day, followed for 60 days; 20 never do."""
    rng = np.random.default_rng(seed)
    day = 1 + rng.choice(10, size=(USERS, SESSIONS), p=day_probabilities(np.float64(p)))
    day[:20] = 10_000
    start = np.concatenate([np.zeros((USERS, 1)), np.cumsum(day, axis=1)[:, :-1]], axis=1)
    kept = start < 60
    returned = (start + day <= 60)[kept]
    days = np.where(returned, day[kept] - 0.5, 60 - start[kept])
    user = np.repeat(np.arange(USERS), kept.sum(axis=1))
    return noted_times(user, np.round(start[kept] * DAY_MS).astype(np.int64), SessionReturns(days, returned))


@pytest.fixture(scope="module")
def fit():
    return fit_returns(planted())


def test_the_probability_of_all_users_is_found_and_holds_for_users_held_out(fit):
    assert abs(fit.model.mean) < 0.15  # logit .5 = 0
    assert fit.model.std < 0.35
    assert (fit.users, fit.users_without_return, fit.model.users, fit.calibration.users) == (200, 20, 180, 90)
    assert fit.calibration.ks < 0.05
    assert fit.calibration.predicted_days == pytest.approx(1.990, abs=0.12)
    assert population_days(fit.model.mean, fit.model.std).sum() == pytest.approx(1)
    assert fit.notes == ()


def test_return_rates_count_sessions_that_were_followed_so_long_with_intervals_by_user(fit):
    """P(D <= 3) is .876 given p = .5; about 20 of 2,200 sessions are those of users who never come back."""
    rate = fit.rates[3]
    assert rate.lo < 0.866 < rate.hi
    assert rate.hi - rate.lo < 0.04
    assert fit.rates[1].value < rate.value < fit.rates[7].value


def test_too_few_users_are_an_error_or_a_note():
    times = planted()
    few = fit_returns(times.of_users(np.arange(15, 30)))
    assert few.notes == ("only 5 held-out users with a return: too few to judge the calibration",)
    message = (
        "20 sessions of 20 users; 20 sessions were followed for 10 days, with a return of 0 users; expected 2 users"
    )
    with pytest.raises(DataError, match=message):
        fit_returns(times.of_users(np.arange(20)))


@pytest.mark.parametrize("length", [14, 60])
def test_a_short_log_does_not_make_users_come_back_sooner(length):
    """logit p is normal (-1.5, .5): 3.88 days on average. A fit on all sessions of 14 days finds 3.55."""
    rng = np.random.default_rng(1)
    p = 1 / (1 + np.exp(1.5 - 0.5 * rng.normal(size=1_500)))
    chance = np.cumsum(day_probabilities(p), axis=1)
    day = 1 + (rng.random((1_500, 40, 1)) > chance[:, np.newaxis]).sum(axis=2)
    start = rng.random((1_500, 1)) * length  # users arrive over the whole log
    start = start + np.concatenate([np.zeros((1_500, 1)), np.cumsum(day, axis=1)[:, :-1]], axis=1)
    kept = start < length
    returned = (start + day <= length)[kept]
    days = np.where(returned, day[kept] - 0.5, length - start[kept])
    user = np.repeat(np.arange(1_500), kept.sum(axis=1))
    fit = fit_returns(
        noted_times(user, np.round(start[kept] * DAY_MS).astype(np.int64), SessionReturns(days, returned))
    )
    truth = day_probabilities(p).mean(axis=0) @ np.arange(1, 11)
    assert population_days(fit.model.mean, fit.model.std) @ np.arange(1, 11) == pytest.approx(truth, abs=0.12)
    assert fit.calibration.predicted_days == pytest.approx(fit.calibration.observed_days, abs=0.25)


def test_the_file_has_no_user_and_is_read_back(fit, tmp_path):
    path = tmp_path / "returns.json"
    write_return_model(path, fit, "a log")
    assert read_return_model(path) == (fit.model.mean, fit.model.std)
    body = json.loads(path.read_text())
    assert "posterior" not in json.dumps(body)
    assert body["return_rates"]["3"]["value"] == fit.rates[3].value
    path.write_text(path.read_text().replace('"sessions": ', '"sessions": 1'))
    with pytest.raises(ArtifactError, match="fit it again with `recpolicy session fit-returns`"):
        read_return_model(path)
