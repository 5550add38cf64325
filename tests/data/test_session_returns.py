"""The second reward of session logs: it is written and read, goes with its sessions, and every fault is one line."""

import numpy as np
import pyarrow as pa
import pytest
from hand_logs import tables
from hand_sessions import appended, column, hand_sessions, rewritten, write_hand

from recpolicy.core.errors import DataError
from recpolicy.data.session_ingest import ingest_sessions
from recpolicy.data.session_log_files import SESSIONS, read_sessions
from recpolicy.data.session_returns import SessionReturns, next_starts
from recpolicy.models.return_time import return_rate, return_times_of_log

DAYS = np.array([2.5, 4.0, 3.0, 2.0])
"""Sessions start on days 0 (user 0), 1 (user 3), 2 (user 1) and 3 (user 0): the return after 2.5 days is not in the
log."""


def returns(days=DAYS, returned=(True, False, False, False)) -> SessionReturns:
    return SessionReturns(np.asarray(days, np.float64), np.asarray(returned))


def test_returns_are_read_back_in_any_order_of_rows(tmp_path):
    write_hand(tmp_path, returns=returns())
    rewritten(lambda table: table.take([2, 10, 0, 9, 3, 8, 1, 11, 4, 7, 6, 5]))(tmp_path)
    found = read_sessions(tmp_path / SESSIONS, tables())
    assert found.returns.days.tolist() == [2.5, 2.0, 3.0, 4.0]  # sessions in the order of their first row
    assert found.returns.returned.tolist() == [True, False, False, False]
    part = found.select_sessions(np.array([True, False, False, True]))
    assert part.returns.days.tolist() == [2.5, 4.0]


def test_only_logs_with_returns_have_another_digest():
    plain, noted = hand_sessions(), hand_sessions(returns=returns())
    others = [
        hand_sessions(returns=returns(DAYS + np.eye(4)[3])),
        hand_sessions(returns=returns(returned=(1, 0, 0, 1))),
    ]
    assert len({log.digest for log in (plain, noted, *others)}) == 4
    assert plain.digest == hand_sessions().digest


def test_a_log_without_returns_says_what_gives_them():
    with pytest.raises(DataError, match=r"^hand: no columns days_to_return and returned; expected .*export --task"):
        hand_sessions().require_returns()
    assert hand_sessions(returns=returns()).require_returns().without_return(np.array([0, 3, 1, 0])) == 2


FLAGS = [True] * 4 + [False] * 8
LONG = [2.5] * 4 + [4.0] + [3.0] * 5 + [2.0] * 2
FAULTS = {
    "before": ([-0.5] * 4 + LONG[4:], "row 1: days_to_return is -0.5: a return before the end of its session"),
    "no number": ([*LONG[:4], float("nan"), *LONG[5:]], "row 5: days_to_return is nan: expected days"),
    "endless": ([*LONG[:4], float("inf"), *LONG[5:]], "row 5: days_to_return is inf: expected days"),
    "null": ([*LONG[:4], None, *LONG[5:]], "row 5: days_to_return is missing"),
    "not one": ([2.0, *LONG[1:]], r"row 2: days_to_return or returned differs .*\(session 's0'\)"),
    "too late": ([3.25] * 4 + LONG[4:], "'s0': days_to_return is 3.25, but the user's next session in the log, 's3',"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_of_returns_is_one_line(tmp_path, fault):
    days, message = FAULTS[fault]
    write_hand(tmp_path)
    appended("days_to_return", days, pa.float64())(tmp_path)
    appended("returned", FLAGS, pa.bool_())(tmp_path)
    with pytest.raises(DataError, match=message) as raised:
        read_sessions(tmp_path / SESSIONS, tables())
    assert "\n" not in str(raised.value)


def test_one_column_without_the_other_or_of_another_type_is_refused(tmp_path):
    write_hand(tmp_path, returns=returns())
    rewritten(lambda table: table.drop_columns(["returned"]))(tmp_path)
    with pytest.raises(DataError, match="column days_to_return without returned; expected both, or neither"):
        read_sessions(tmp_path / SESSIONS, tables())
    write_hand(tmp_path, returns=returns())
    column("days_to_return", ["3"] * 12, pa.string())(tmp_path)
    with pytest.raises(DataError, match="column days_to_return is of type string; expected numbers"):
        read_sessions(tmp_path / SESSIONS, tables())


def test_an_ingest_splits_returns_with_their_sessions_and_counts_the_censored(tmp_path):
    write_hand(tmp_path / "log", returns=returns())
    (tmp_path / "out").mkdir()
    report = ingest_sessions(tmp_path / "log", tmp_path / "out", tables(), 0.25).as_dict()
    assert {name: report[name] for name in ("returned", "censored", "users_without_return")} == {
        "returned": 1, "censored": 3, "users_without_return": 2,
    }  # fmt: skip
    found = [
        read_sessions(path, tables()).returns.days.tolist() for path in sorted((tmp_path / "out").glob("*.parquet"))
    ]
    assert sorted(found) == [[2.0], [2.5, 4.0, 3.0]]
    write_hand(tmp_path / "log")
    assert "censored" not in ingest_sessions(tmp_path / "log", tmp_path / "out", tables(), 0.25).as_dict()


def test_return_times_of_a_log_are_those_that_it_notes():
    log = hand_sessions(returns=returns())
    times = return_times_of_log(log)
    assert times.user.tolist() == [0, 0, 1, 3]
    assert times.day.tolist() == [3, 2, 3, 4]  # a return after 2.5 days is on day 3; the others are full days without
    assert times.observed.tolist() == [True, False, False, False]
    # The latest known time is 3 days after session s2, which ended 2 days and a minute after s0.
    assert times.followed.tolist() == [5, 2, 3, 4]
    assert return_rate(times, 3)[0].tolist() == [1, 0, 0]
    with pytest.raises(DataError, match="hand: has return times of its own; leave out `until`"):
        return_times_of_log(log, 10**9)


def test_the_next_start_of_a_user_is_after_the_end_of_the_session():
    """Sessions of user 1 that overlap (2 starts before 1 ends) have the same next one; user 2 has none."""
    user, start, end = np.array([1, 1, 2, 1]), np.array([0, 5, 3, 9]), np.array([7, 8, 3, 11])
    assert next_starts(user, end, user, start).tolist() == [3, 3, -1, -1]
    assert next_starts(user, end, user[:0], start[:0]).tolist() == [-1] * 4
    assert next_starts(user, end, np.array([2, 1]), np.array([3, 20])).tolist() == [1, 1, -1, 1]
