"""Events that a policy learned from: the same in every cut of a log, rare by chance, and known in every kind of log."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hand_logs import hand_rounds, tables
from hand_sessions import hand_sessions
from hand_slates import hand_slates

from recpolicy.core.errors import DataError
from recpolicy.core.hashes import count_matches, text_hashes
from recpolicy.data.bandit_log_files import write_events
from recpolicy.data.learned_events import FALSE_REFUSALS, file_events, log_events, merge, min_matches
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.data.slate_rounds import rounds_from_slates
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit


@pytest.mark.parametrize("log", [hand_rounds(), hand_slates(), hand_sessions()])
def test_every_event_is_one_hash_of_its_id_whatever_else_changes(log):
    events = log_events(log)
    assert events.tolist() == sorted(text_hashes(log.event_id).tolist())
    assert log_events(replace(log, time=log.time + 1_000)).tolist() == events.tolist()
    ids = log.event_id.copy()
    ids[0] = "another"
    assert count_matches(log_events(replace(log, event_id=ids)), events) == len(log) - 1


def test_slots_of_a_slate_are_the_event_of_the_slate():
    slates = hand_slates()
    rounds = replace(rounds_from_slates(slates, (1.0, 5.0)), slate_digest=slates.digest)
    assert log_events(rounds).tolist() == log_events(slates).tolist()
    assert len(log_events(replace(rounds, slate_digest=None))) == len(rounds)  # as they stand: a round each


def test_file_has_the_events_of_its_rounds(tmp_path):
    log = hand_rounds()
    for digest in (None, "ab" * 32):
        ids = np.array([f"{event}:1" for event in log.event_id], object)
        rounds = replace(log, event_id=ids, slate_digest=digest)
        write_events(tmp_path / "rounds.parquet", rounds, tables(), with_rewards=True)
        assert file_events(tmp_path / "rounds.parquet").tolist() == log_events(rounds).tolist()


@pytest.mark.parametrize(
    ("learned", "evaluated", "matches"),
    [(0, 10, 1), (1, 1, 1), (10**6, 10**6, 1), (10**7, 10**6, 1), (10**7, 10**7, 2), (2**26, 2**26, 2),
     (2**32, 2**33, 13)],
)  # fmt: skip
def test_fewest_matches_that_are_no_chance(learned, evaluated, matches):
    """The exact tail of the Poisson distribution, summed in its terms."""
    mean = learned * evaluated / 2.0**64
    terms = [math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) if mean else 0.0 for k in range(60)]
    assert min_matches(learned, evaluated) == matches
    assert sum(terms[matches:]) <= FALSE_REFUSALS
    assert matches == 1 or sum(terms[matches - 1 :]) > FALSE_REFUSALS


def test_more_events_than_an_artifact_keeps_are_refused(monkeypatch):
    monkeypatch.setattr("recpolicy.data.learned_events.MAX_HASHES", 3)
    one, other = np.arange(3, dtype=np.uint64), np.arange(1, 4, dtype=np.uint64)
    assert merge(one, one[:2]).tolist() == [0, 1, 2]
    with pytest.raises(DataError, match="have learned from 4 events"):
        merge(one, other)
    assert len(merge()) == 0


HEADER = ",timestamp,item_id,position,click,propensity_score,user_feature_0"
LINES = [f"{row},2019-11-24 00:00:{row // 2:02d}+00:00,{row % 3},1,0,0.25,u{row % 2}" for row in range(20)]
LINES += [LINES[7], LINES[7]]  # said three times


def imported(path, lines):
    path.write_text("\n".join((HEADER, *lines)) + "\n", encoding="utf-8")
    return log_events(read_open_bandit(path, policy="any").rounds)


def test_imported_lines_without_an_id_are_known_in_every_part_of_their_file(tmp_path):
    whole = imported(tmp_path / "whole.csv", LINES)
    assert len(whole) == 22
    late, early = imported(tmp_path / "late.csv", LINES[6:]), imported(tmp_path / "early.csv", LINES[:6])
    assert (count_matches(whole, late), count_matches(whole, early), count_matches(late, early)) == (16, 6, 0)
    assert count_matches(imported(tmp_path / "turned.csv", LINES[::-1]), whole) == 22
    changed = [LINES[0].replace("0.25", "0.5"), *LINES[1:]]
    assert count_matches(imported(tmp_path / "changed.csv", changed), whole) == 21


def test_lines_without_times_do_not_depend_on_their_place(tmp_path):
    line = '{"_label_cost":-1,"_label_probability":0.5,"_label_Action":1,"_labelIndex":0,"o":[{"v":1}],"a":[1,2],' \
           '"c":{"u":"%s","_multi":[{"i":"a"},{"i":"b"}]},"p":[0.5,0.5]}'  # fmt: skip
    lines = [line % f"u{row}" for row in range(6)]
    logs = []
    for name, part in (("whole", lines), ("late", lines[2:])):
        path = tmp_path / f"{name}.json"
        path.write_text("\n".join(part) + "\n")
        logs.append(log_events(read_vowpal_wabbit(path).rounds))
    assert count_matches(*logs) == 4
