"""`recpolicy session fit-returns`: a log without a policy, its counts, and faults in one line."""

import numpy as np
from command_line import recpolicy, refused
from hand_sessions import write_hand

from recpolicy.data.session_returns import SessionReturns


def test_return_times_of_a_log_are_fitted_without_a_policy(tmp_path, capsys):
    days = np.array([2.5, 0.5, 30.0, 29.0])
    log = write_hand(tmp_path / "log", returns=SessionReturns(days, np.array([True, True, False, False])))
    out = tmp_path / "returns.json"
    answer = recpolicy(capsys, "session", "fit-returns", log, "--out", out)
    assert answer.code == 0, answer.err
    text = " ".join(answer.out.split())
    assert (
        "4 sessions of 3 users, 1 of them without any return; of sessions followed for 10 days: 2 returns within"
        in text
    )
    assert "note: only 1 held-out users with a return: too few to judge the calibration" in text
    assert out.is_file()
    assert "exists" in refused(recpolicy(capsys, "session", "fit-returns", log, "--out", out))


def test_faults_are_one_line_and_leave_no_file(tmp_path, capsys):
    out = tmp_path / "new.json"
    assert "no such file" in refused(recpolicy(capsys, "session", "fit-returns", tmp_path / "none", "--out", out))
    few = "4 sessions of 3 users; 0 sessions were followed for 10 days, with a return of 0 users; expected 2 users"
    assert few in refused(recpolicy(capsys, "session", "fit-returns", write_hand(tmp_path / "plain"), "--out", out))
    assert not out.exists()
