"""Return times of simulated session logs: chains of sessions of each user, days, censoring, and their figures."""

from types import SimpleNamespace

import numpy as np
import pytest
from hand_logs import START
from hand_sessions import LENGTHS, hand_sessions

from recpolicy.core.errors import DataError
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_returns import DAY_MS
from recpolicy.workflows.session_log_returns import chained, session_figures

SESSIONS, USERS = 600, 3


def many_sessions() -> SessionLog:
    """Sessions of two items each, of three users in turn."""
    session = np.repeat(np.arange(SESSIONS), 2)
    step = np.tile(np.arange(2, dtype=np.int32), SESSIONS)
    count = len(step)
    return hand_sessions(
        event_id=np.array([f"e{row}" for row in range(count)], object), time=START + 60_000 * step.astype(np.int64),
        user=(session % USERS).astype(np.int32), session=np.array([f"s{one}" for one in session], object), step=step,
        item=np.where(step == 0, 1, 2).astype(np.int32), log_propensity=np.zeros(count), reward=np.zeros(count),
        liked=np.zeros(count, bool), ended=step == 1, policy=np.full(count, "p", object),
        version=np.full(count, "v", object),
    )  # fmt: skip


def test_sessions_of_a_user_follow_each_other_with_the_days_that_are_noted():
    """With a return probability near 1 every return is on day 1: within 24 hours."""
    begin = START + 5 * DAY_MS
    log = chained(many_sessions(), np.full(SESSIONS, 0.999), begin, 30.0, np.random.default_rng(0))
    assert begin <= log.time.min()
    assert log.time.max() <= begin + 30 * DAY_MS
    first, last = log.time[log.start[:-1]], log.time[log.start[1:] - 1]
    assert (np.diff(first) >= 0).all()
    for user in range(USERS):
        mine = np.flatnonzero(log.session_user == user)
        gap = (first[mine[1:]] - last[mine[:-1]]) / DAY_MS
        assert ((gap >= 1 / 24) & (gap <= 1)).mean() > 0.95
        np.testing.assert_allclose(log.returns.days[mine[:-1]], gap)
        assert log.returns.returned[mine[:-1]].all()
        assert not log.returns.returned[mine[-1]]
        np.testing.assert_allclose(log.returns.days[mine[-1]], (begin + 30 * DAY_MS - last[mine[-1]]) / DAY_MS)


def test_users_of_a_low_probability_come_back_later_and_less_often():
    """P(D > 1) is about .89 of the users with p = .02 and .3 of those with p = .7."""
    plain = many_sessions()
    p = np.where(plain.session_user == 0, 0.02, 0.7)
    log = chained(plain, p, START, 30.0, np.random.default_rng(1))
    days = np.ceil(log.returns.days)
    mine = (log.session_user == 0) & log.returns.returned
    assert days[mine].mean() > 3 > 2 > days[(log.session_user > 0) & log.returns.returned].mean()
    assert mine.sum() < 15
    assert log.digest == chained(plain, p, START, 30.0, np.random.default_rng(1)).digest


def test_a_user_whose_sessions_are_used_up_still_has_a_known_return():
    log = chained(hand_sessions(), np.full(4, 0.999), START, 300.0, np.random.default_rng(0))
    assert log.returns.returned.all()
    assert len(log.length) == 4


def test_a_log_too_short_for_any_session_is_refused():
    log = hand_sessions().select_sessions(np.array([True, False, True, True]))  # the sessions take minutes
    with pytest.raises(DataError, match=r"no simulated session ends within 0\.0005 days; log more days"):
        chained(log, np.full(3, 0.5), START, 0.0005, np.random.default_rng(0))


def test_figures_of_sessions_by_hand():
    """Session s1 has one item, 5; session s3 items 2 and 5 of one genre: 1 - .3 repeats, with a decay of .7."""
    log = hand_sessions(liked=np.array([1, 0, 0, 1] + [1] + [0] * 5 + [1, 0], bool))
    genres = np.zeros((6, 2), np.float32)
    genres[[2, 5], 0] = 1
    information = np.array([0, 0, 0.4, 0, 0, 0.8])
    likes, novelty = session_figures(log, SimpleNamespace(genres=genres, genre_decay=0.7), information)
    assert likes.tolist() == [0.5, 1, 0, 0.5]
    assert novelty[1] == pytest.approx((1 + 0.8) / 2)
    assert novelty[3] == pytest.approx(((1 + 0.4) / 2 + (0.7 + 0.8) / 2) / 2)
    assert log.length.tolist() == list(LENGTHS)
