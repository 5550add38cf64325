"""From raw logs to rounds: which reward is joined, what becomes of events without one, the split by time."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hand_logs import HOUR, START, assert_same_rounds, column, hand_rounds, newcomer_rounds, tables, write_log
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import write_events, write_rewards
from recpolicy.data.log_ingest import IngestConfig, ingest, read_complete_rounds
from recpolicy.data.log_parts import EVENTS, REWARDS
from recpolicy.data.reward_signals import summarize_rewards

ALL = IngestConfig(evaluation_share=0.0)
NOT_USED = ("late_rewards", "doubled_rewards", "unknown_rewards")


def rewards(folder, *rows):
    """Write (event, hours after the first event, reward) as the rewards that came."""
    ids, hours, values = zip(*rows, strict=True)
    time = START + (HOUR * np.array(hours)).astype(np.int64)
    write_rewards(folder / REWARDS, np.array(ids, object), time, np.array(values, float))


def joined(folder, config=ALL):
    """{event: reward} and the report."""
    rounds, _, report = ingest(folder, tables(), config)
    return dict(zip(rounds.event_id.tolist(), rounds.reward.tolist(), strict=True)), report


def user_ids(rounds):
    """[N]."""
    known = tables().users["user_id"].tolist()
    return np.array([*known, *([] if rounds.cold_start_users is None else rounds.cold_start_users.ids)])[rounds.user]


@pytest.fixture
def four(tmp_path):
    """Events e0..e3 at hours 0, 1, 2, 3, without rewards."""
    return write_log(tmp_path, hand_rounds(4))


@pytest.mark.parametrize(("exporter", "learnt"), [(None, 3), ("somebody", 1)])
def test_of_a_log_that_grows_nothing_is_learnt_that_is_later_than_an_event_that_waits(tmp_path, exporter, learnt):
    """Else the event, once its reward is there, would be older than what was learnt, and never be learnt itself."""
    write_events(tmp_path / EVENTS, replace(hand_rounds(4), exporter=exporter), tables(), with_rewards=False)
    rewards(tmp_path, ("e0", 0.5, 1), ("e2", 2.5, 2), ("e3", 3.5, 3))  # e1 waits
    found, later, report = ingest(tmp_path, tables(), ALL)
    assert (len(found), len(later), report.training, report.waiting) == (learnt, 3 - learnt, learnt, 1)


def test_where_the_first_event_waits_the_rest_is_learnt_all_the_same(tmp_path):
    write_events(tmp_path / EVENTS, replace(hand_rounds(4), exporter="somebody"), tables(), with_rewards=False)
    rewards(tmp_path, ("e2", 2.5, 2), ("e3", 3.5, 3))
    assert [len(part) for part in ingest(tmp_path, tables(), ALL)[:2]] == [2, 0]


def test_all_rewards_in_time_give_the_rounds_that_were_logged(tmp_path):
    rounds = hand_rounds(12, candidates=True)
    found, later, report = ingest(write_log(tmp_path, rounds), tables(), ALL)
    assert_same_rounds(found, rounds)
    assert len(later) == 0
    counts = report.as_dict()
    assert counts.pop("rewards") == summarize_rewards(rounds.reward, rounds.scale).as_dict()
    assert counts == {
        "events": 12, "joined": 12, "defaulted": 0, "left_out": 0, "waiting": 0, "late_rewards": 0,
        "doubled_rewards": 0, "unknown_rewards": 0, "with_context": 0, "training": 12, "evaluation": 0,
    }  # fmt: skip


def test_vectors_and_newcomers_go_with_their_rounds(tmp_path):
    rounds = newcomer_rounds(candidates=True)
    shuffled = np.random.default_rng(2).permutation(12)
    write_log(tmp_path, replace(rounds, time=START + HOUR * shuffled))
    learn, judge, _ = ingest(tmp_path, tables(), IngestConfig(evaluation_share=0.5))
    order = np.argsort(shuffled)
    for part, rows in ((learn, order[:6]), (judge, order[6:])):
        np.testing.assert_array_equal(part.context, rounds.context[rows])
        np.testing.assert_array_equal(user_ids(part), user_ids(rounds)[rows])
        write_events(tmp_path / "part.parquet", part, tables(), with_rewards=True)
        assert_same_rounds(read_complete_rounds(tmp_path / "part.parquet", tables()), part)


def test_events_with_a_vector_are_left_out_and_counted_where_they_are_not_wanted(tmp_path):
    rounds = newcomer_rounds()
    write_log(tmp_path, rounds)
    found, _, report = ingest(tmp_path, tables(), replace(ALL, contexts=False, default_reward=1.0))
    own = ~rounds.with_context
    assert found.event_id.tolist() == rounds.event_id[own].tolist()
    assert found.context is found.cold_start_users is None
    assert (report.events, report.with_context, report.joined) == (12, 12 - own.sum(), own.sum())
    assert (report.defaulted, report.left_out, report.waiting, report.unknown_rewards) == (0, 0, 0, 0)


def test_the_first_reward_within_the_window_wins_whatever_the_order_of_the_file(four):
    rewards(four, ("e0", 5, 5), ("e0", 2, 2), ("e1", 1, 4), ("e0", 3, 3), ("e2", 2.5, 1), ("e3", 3, 1))
    found, report = joined(four)
    assert found == {"e0": 2, "e1": 4, "e2": 1, "e3": 1}
    assert (report.joined, report.doubled_rewards) == (4, 2)


def test_the_window_is_closed_at_both_ends(four):
    config = replace(ALL, wait_hours=1.5)
    hair = 1e-3 / 3600
    rewards(four, ("e0", 1.5, 1), ("e1", 2.5 + hair, 2), ("e2", 2, 3), ("e3", 3 - hair, 4), ("e3", 9, 5))
    found, report = joined(four, config)
    assert found == {"e0": 1, "e2": 3}
    assert (report.late_rewards, report.left_out, report.doubled_rewards) == (3, 2, 0)


def test_a_reward_too_early_does_not_stand_in_the_way_of_one_in_time(four):
    rewards(four, ("e2", 1, 1), ("e2", 3, 4), ("e0", 30, 2))
    found, report = joined(four)
    assert found == {"e2": 4}
    assert report.late_rewards == 2


def test_rewards_of_events_that_nobody_logged_are_counted(four):
    rewards(four, ("e0", 1, 3), ("stranger", 1, 5), ("e9", 2, 5))
    found, report = joined(four)
    assert found == {"e0": 3}
    assert report.unknown_rewards == 2


def test_an_event_whose_window_is_open_at_the_end_of_the_log_waits(four):
    """The log ends at hour 25, when the last reward came: the windows of e0 and e1 have closed, e1's just now."""
    rewards(four, ("e3", 25, 5))
    found, report = joined(four, replace(ALL, default_reward=2.0))
    assert found == {"e0": 2, "e1": 2, "e3": 5}
    assert (report.joined, report.defaulted, report.waiting, report.left_out) == (1, 2, 1, 0)
    found, report = joined(four)
    assert found == {"e3": 5}
    assert (report.joined, report.defaulted, report.waiting, report.left_out) == (1, 0, 1, 2)


def test_a_later_event_closes_windows_as_well(tmp_path):
    rounds = hand_rounds(3)
    late = rounds.time.copy()
    late[2] += 48 * HOUR
    write_log(tmp_path, replace(rounds, time=late))
    (tmp_path / REWARDS).unlink()
    found, report = joined(tmp_path, replace(ALL, default_reward=1.0))
    assert found == {"e0": 1, "e1": 1}
    assert report.waiting == 1


def test_no_reward_at_all_is_one_line(four):
    (four / REWARDS).unlink()
    with pytest.raises(DataError, match="no event has a reward yet; wait for rewards, or set default_reward"):
        joined(four)


def test_rewards_written_with_the_events_are_kept_and_come_first(tmp_path):
    rounds = hand_rounds(4)
    write_events(tmp_path / EVENTS, rounds, tables(), with_rewards=True)
    found, report = joined(tmp_path)
    assert list(found.values()) == rounds.reward.tolist()
    column("reward", lambda old: [old[0], None, *old[2:]])(tmp_path)
    rewards(tmp_path, ("e0", 0.5, 6 - rounds.reward[0]), ("e1", 1.5, 3))
    found, report = joined(tmp_path)
    assert found == {"e0": rounds.reward[0], "e1": 3, "e2": rounds.reward[2], "e3": rounds.reward[3]}
    assert report.doubled_rewards == 1


def test_rounds_are_in_the_order_of_time_and_keep_what_belongs_to_them(tmp_path):
    rounds = hand_rounds(12, candidates=True)
    shuffled = rounds.time[np.random.default_rng(1).permutation(12)]
    whole, _, _ = ingest(write_log(tmp_path, replace(rounds, time=shuffled)), tables(), ALL)
    assert (np.diff(whole.time) > 0).all()
    order = np.argsort(shuffled)
    for name in ("event_id", "user", "item", "log_propensity", "reward", "version"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(rounds, name)[order], err_msg=name)
    np.testing.assert_array_equal(whole.allowed(slice(0, 12)), rounds.allowed(slice(0, 12))[order])


def test_evaluation_is_the_later_share(tmp_path):
    learn, judge, report = ingest(write_log(tmp_path, hand_rounds(10)), tables(), IngestConfig(evaluation_share=0.3))
    assert learn.event_id.tolist() == [f"e{row}" for row in range(7)]
    assert judge.event_id.tolist() == ["e7", "e8", "e9"]
    assert learn.time.max() < judge.time.min()
    assert (report.training, report.evaluation) == (7, 3)
    assert (learn.name, judge.name) == ("log/training", "log/evaluation")


def test_events_of_one_moment_are_not_parted(tmp_path):
    rounds = hand_rounds(10)
    time = START + HOUR * np.array([0, 0, 0, 0, 5, 5, 5, 5, 5, 9])
    write_log(tmp_path, replace(rounds, time=time))
    learn, judge, _ = ingest(tmp_path, tables(), IngestConfig(evaluation_share=0.3))
    assert (len(learn), len(judge)) == (4, 6)
    write_log(tmp_path, replace(rounds, time=np.full(10, START)))
    with pytest.raises(DataError, match=r"10 rounds, the latest 30% .* none is left for training"):
        ingest(tmp_path, tables(), IngestConfig(evaluation_share=0.3))
    assert len(ingest(tmp_path, tables(), ALL)[0]) == 10


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wait_hours": -1.0}, r"wait_hours is -1\.0: expected greater than or equal to 0"),
        ({"wait_hours": float("nan")}, "wait_hours is nan"),
        ({"wait_hours": float("inf")}, "wait_hours is inf"),
        ({"evaluation_share": 1.0}, r"evaluation_share is 1\.0: expected less than 1"),
        ({"evaluation_share": float("nan")}, "evaluation_share is nan"),
        ({"default_reward": float("nan")}, "default_reward is nan: expected a finite number"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        IngestConfig(**settings)


@pytest.mark.parametrize("reward", [0.5, 6.0])
def test_a_default_reward_must_be_on_the_scale(four, reward):
    with pytest.raises(ConfigError, match=rf"default_reward is {reward}; it must be in 1\.\.5"):
        ingest(four, tables(), IngestConfig(default_reward=reward))


def test_rounds_without_a_reward_have_to_be_ingested_first(four):
    with pytest.raises(DataError, match=r"events\.parquet: row 1: no reward; ingest the log first"):
        read_complete_rounds(four / EVENTS, tables())


def test_rounds_with_twins_are_refused_as_well(tmp_path):
    write_events(tmp_path / EVENTS, hand_rounds(4), tables(), with_rewards=True)
    column("event_id", lambda old: [*old[:3], old[0]])(tmp_path)
    with pytest.raises(DataError, match="row 4: event_id 'e0' occurs twice"):
        read_complete_rounds(tmp_path / EVENTS, tables())


@given(
    times=st.lists(st.integers(0, 72), min_size=1, max_size=12),
    came=st.lists(st.tuples(st.integers(-1, 12), st.integers(0, 100), st.integers(1, 5)), max_size=20),
    wait=st.sampled_from([0, 1, 24]),
    default=st.sampled_from([None, 1.0]),
    share=st.sampled_from([0.0, 0.2, 0.5]),
)
def test_every_event_and_every_reward_is_counted_once(times, came, wait, default, share):
    """Beside a plain reading of the rules, event by event."""
    end = max([*times, *(hour for _, hour, _ in came)])
    fate, expected = Counter(), {}
    for event, time in enumerate(times):
        mine = sorted((hour, place) for place, (whose, hour, _) in enumerate(came) if whose == event)
        within = [place for hour, place in mine if time <= hour <= time + wait]
        if within:
            fate["joined"] += 1
            expected[event] = came[within[0]][2]
        elif time + wait > end or default is None:
            fate["waiting" if time + wait > end else "left_out"] += 1
        else:
            fate["defaulted"] += 1
            expected[event] = default
    when = sorted(times[event] for event in expected)
    kept = round(len(when) * share)
    training = sum(time < when[-kept] for time in when) if kept else len(when)
    rounds = replace(hand_rounds(len(times)), time=START + HOUR * np.array(times, np.int64))
    config = IngestConfig(wait_hours=wait, default_reward=default, evaluation_share=share)
    with TemporaryDirectory() as name:
        folder = write_log(Path(name), rounds)
        (folder / REWARDS).unlink()
        if came:
            rewards(folder, *((f"e{event}", hour, reward) for event, hour, reward in came))
        if not training:
            with pytest.raises(DataError, match=r"no event has a reward|none is left for training"):
                ingest(folder, tables(), config)
            return
        learn, judge, report = ingest(folder, tables(), config)
    figures = report.as_dict()
    assert {name: figures[name] for name in ("joined", "waiting", "left_out", "defaulted")} == {
        name: fate[name] for name in ("joined", "waiting", "left_out", "defaulted")
    }
    assert figures["events"] == len(times) == fate.total()
    assert figures["joined"] + sum(figures[name] for name in NOT_USED) == len(came)
    found = dict(zip([*learn.event_id, *judge.event_id], [*learn.reward, *judge.reward], strict=True))
    assert found == {f"e{event}": reward for event, reward in expected.items()}
    assert (figures["training"], figures["evaluation"]) == (len(learn), len(judge)) == (training, len(when) - training)
    assert not len(judge) or learn.time.max() < judge.time.min()
