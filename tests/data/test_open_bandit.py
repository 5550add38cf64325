"""Logs in the form of the Open Bandit Dataset become rounds; every fault is named by file and line."""

import numpy as np
import pandas as pd
import pytest
from hand_logs import tables

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data import open_bandit
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.open_bandit import read_open_bandit

HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0,user_feature_1,user-item_affinity_0"
LINES = (
    "0,2019-11-24 00:00:02.500000+00:00,12,1,0,0.25,aa,x,0.0",
    "1,2019-11-24 00:00:01+00:00,9,2,1,0.5,bb,x,1.5",
    "2,2019-11-24T01:00:03+01:00,12,3,0,1.0,aa,x,0.0",
    "3,2019-11-24 00:00:04+00:00,30,1,1,1e-05,aa,y,0.0",
)


def write(path, lines=LINES, header=HEADER):
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def changed(column: str, value: str, line: int = 2) -> list[str]:
    """The lines, one of them with another value; line 2 of the lines is line 4 of the file."""
    lines = list(LINES)
    cells = lines[line].split(",")
    cells[HEADER.split(",").index(column)] = value
    lines[line] = ",".join(cells)
    return lines


def test_what_stands_in_the_file_is_what_was_logged_in_the_order_of_time(tmp_path):
    found = read_open_bandit(write(tmp_path / "log.csv"))
    rounds = found.rounds
    assert found.tables.items["item_id"].tolist() == [9, 12, 30]  # numbers, not texts: 9 before 12
    assert found.tables.users["user_id"].tolist() == ["aa|x", "aa|y", "bb|x"]
    assert rounds.item.tolist() == [0, 1, 1, 2]
    assert rounds.user.tolist() == [2, 0, 0, 1]
    assert rounds.reward.tolist() == [1, 0, 0, 1]
    np.testing.assert_allclose(rounds.propensity, [0.5, 0.25, 1.0, 1e-5], rtol=1e-12)
    assert (np.diff(rounds.time) == [1500, 500, 1000]).all()
    assert pd.Timestamp(rounds.time[0], unit="ms") == pd.Timestamp("2019-11-24 00:00:01")
    assert [one.rsplit("-", 1)[1] for one in rounds.event_id] == ["0"] * 4  # the first of their content
    assert len(set(rounds.event_id)) == 4
    assert rounds.action_items.tolist() == [0, 1, 2]
    assert rounds.candidates is None
    assert found.lost == ("position", "user-item_affinity_0")
    assert set(rounds.policy) == {"open_bandit"}


def test_batches_are_put_together_and_keep_their_line_numbers(tmp_path, monkeypatch):
    whole = read_open_bandit(write(tmp_path / "log.csv"))
    monkeypatch.setattr(open_bandit, "_ROWS", 3)
    parts = read_open_bandit(tmp_path / "log.csv")
    assert parts.rounds.digest == whole.rounds.digest
    with pytest.raises(DataError, match=r"log\.csv:5: propensity 2: expected a probability in \(0, 1\]"):
        read_open_bandit(write(tmp_path / "log.csv", changed("propensity_score", "2", line=3)))


def test_with_a_policys_tables_ids_are_its_own_and_clicks_go_from_one_end_of_its_scale_to_the_other(tmp_path):
    header = "timestamp,item_id,click,propensity_score,user_id"
    lines = ("2026-01-01 00:00:00,16,0,0.5,4", "2026-01-01 00:00:01,12,1,0.5,1", "2026-01-01 00:00:02,12,0.25,0.5,1")
    found = read_open_bandit(write(tmp_path / "log.csv", lines, header), tables())
    assert found.rounds.user.tolist() == [3, 0, 0]
    assert found.rounds.item.tolist() == [5, 1, 1]
    assert found.rounds.reward.tolist() == [1.0, 5.0, 2.0]
    assert found.rounds.scale == (1.0, 5.0)
    assert found.rounds.action_items.tolist() == [1, 5]  # what the log shows, not all the policy knows
    texts = IdVocabulary(tables(text=True).users, tables(text=True).items, (1.0, 5.0))
    with pytest.raises(DataError, match=r"log\.csv:2: user '4' is not known to the policy or ratings"):
        read_open_bandit(tmp_path / "log.csv", texts)
    with pytest.raises(DataError, match=r"log\.csv:3: item '17' is not known"):
        read_open_bandit(write(tmp_path / "log.csv", (lines[0], lines[1].replace(",12,", ",17,")), header), tables())


FAULTS = {
    "propensity 0": (changed("propensity_score", "0"), r":4: propensity 0: expected a probability in \(0, 1\]"),
    "propensity text": (changed("propensity_score", "often"), r":4: propensity_score 'often': expected a number"),
    "propensity empty": (changed("propensity_score", ""), r":4: propensity_score '': expected a number"),
    "click too high": (changed("click", "3"), r":4: reward 3 is not in 0\.\.1; give --scale with the lowest"),
    "click text": (changed("click", "yes"), r":4: click 'yes': expected a number"),
    "time": (changed("timestamp", "yesterday"), r":4: timestamp 'yesterday': expected a time such as 2019"),
    "item empty": (changed("item_id", ""), r":4: item_id is missing"),
    "line too short": ([*LINES[:2], "2,2019-11-24 00:00:03+00:00,12"], ":4: user_feature_0 is missing"),
    "quote that never ends": ([*LINES[:2], '2,"2019'], r": not readable as CSV: .*EOF inside string"),
    "no lines": ([], r": no rounds"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_by_file_and_line(tmp_path, fault):
    lines, message = FAULTS[fault]
    with pytest.raises(DataError, match=r"log\.csv" + message) as raised:
        read_open_bandit(write(tmp_path / "log.csv", lines))
    assert "\n" not in str(raised.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_open_bandit(tmp_path / "none.csv")
    with pytest.raises(
        DataError, match=r"log\.csv:1: no column click, propensity_score; found timestamp, item_id; name them"
    ):
        read_open_bandit(write(tmp_path / "log.csv", (), "timestamp,item_id"))
    (tmp_path / "log.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"log\.csv: not readable as CSV"):
        read_open_bandit(tmp_path / "log.csv")
    with pytest.raises(ConfigError, match=r"scale 1\.\.1: expected the lowest reward, then a higher one"):
        read_open_bandit(write(tmp_path / "log.csv"), scale=(1.0, 1.0))
