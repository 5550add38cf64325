"""From raw feature logs to rounds, and signals in the place of rewards for both kinds of logs."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_feature_logs import hand_feature_log
from hand_logs import HOUR, START, hand_rounds, tables, write_log

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import write_events
from recpolicy.data.feature_log_files import feature_log_part, read_feature_log, read_training_log, write_feature_log
from recpolicy.data.feature_log_ingest import ingest_features
from recpolicy.data.feature_log_json import write_json_lines
from recpolicy.data.log_ingest import IngestConfig, ingest
from recpolicy.data.log_parts import EVENTS
from recpolicy.data.reward_signals import RewardConfig, Signal, combined_reward
from recpolicy.data.signal_files import SIGNALS, read_signals, write_signals

_REWARD = {"weights": {"like": 1.0, "skip": -0.3, "watch_fraction": 0.5}, "min_reward": -1, "max_reward": 2}


def config(reward=None, **settings):
    return build(
        IngestConfig, {"evaluation_share": 0.0, **({"reward": reward} if reward else {}), **settings}, "ingest"
    )


def raw(folder, rewards=None):
    """Write four events at 0, 1, 2 and 3 seconds, without rewards."""
    log = hand_feature_log()
    write_feature_log(replace(log, reward=np.full(4, np.nan) if rewards is None else np.array(rewards)), folder)
    return folder


def signals(folder, *rows):
    """Write (event, seconds, type, value)."""
    event, seconds, types, values = zip(*rows, strict=True)
    write_signals(folder / SIGNALS, event, [round(1000 * second) for second in seconds], types, values)


def test_signals_of_an_event_become_its_reward(tmp_path):
    raw(tmp_path)
    signals(
        tmp_path, ("e0", 0.5, "like", 1.0), ("e0", 5, "watch_fraction", 0.5), ("e0", 10.1, "like", 1.0),
        ("e2", 1.9, "like", 1.0), ("e2", 12, "skip", 1.0), ("e3", 3, "like", 1), ("x", 60, "like", 1.0),
    )  # fmt: skip
    rounds, later, report = ingest_features(tmp_path, config({**_REWARD, "wait_seconds": 10}))
    assert later is None
    assert rounds.event_id.tolist() == ["e0", "e1", "e2", "e3"]
    np.testing.assert_allclose(rounds.reward, [1.25, 0.0, -0.3, 1.0])
    assert (report.joined, report.defaulted, report.waiting, report.left_out) == (3, 1, 0, 0)
    assert (report.late_signals, report.unused_signals, report.unknown_signals) == (2, 0, 1)
    assert report.rewards.share_positive == 0.5
    assert rounds.reward_range == (-1.0, 2.0)


def test_a_sum_waits_for_its_window_and_a_first_signal_does_not(tmp_path):
    raw(tmp_path)
    signals(tmp_path, ("e0", 0.5, "skip", 1.0), ("e0", 0.7, "like", 1.0), ("e3", 5, "like", 1.0))
    sums = ingest_features(tmp_path, config({**_REWARD, "wait_seconds": 4}))
    assert sums[0].event_id.tolist() == ["e0", "e1"]
    assert sums[2].waiting == 2
    first = ingest_features(tmp_path, config({**_REWARD, "wait_seconds": 4, "combine": "first"}))
    assert first[0].event_id.tolist() == ["e0", "e1", "e3"]
    np.testing.assert_allclose(first[0].reward, [-0.3, 0.0, 1.0])
    assert (first[2].waiting, first[2].unused_signals) == (1, 1)
    without = ingest_features(tmp_path, config({**_REWARD, "wait_seconds": 4, "default_reward": None}))
    assert without[0].event_id.tolist() == ["e0"]
    assert without[2].left_out == 1


def test_a_reward_of_the_row_stands(tmp_path):
    raw(tmp_path, [0.5, np.nan, np.nan, 0.25])
    signals(tmp_path, ("e0", 0.5, "like", 1.0), ("e1", 99, "skip", 1.0))
    rounds, _, report = ingest_features(tmp_path, config({**_REWARD, "wait_seconds": 98}))
    assert rounds.reward.tolist() == [0.5, -0.3, 0.25]
    assert report.unused_signals == 1


def test_without_signals_rows_have_their_rewards(tmp_path):
    write_json_lines(hand_feature_log(), tmp_path / "log.jsonl")
    rounds, later, report = ingest_features(tmp_path / "log.jsonl", config(evaluation_share=0.3, wait_hours=0))
    assert (rounds.event_id.tolist(), later.event_id.tolist()) == (["e0", "e1"], ["e3"])
    assert (report.left_out, report.waiting) == (1, 0)
    rounds, *_ = ingest_features(tmp_path / "log.jsonl", config(wait_hours=0, default_reward=-0.25, unit="round"))
    assert rounds.reward.tolist() == [1, -0.5, -0.25, 0]
    assert rounds.user is None
    write_feature_log(hand_feature_log(), tmp_path / "log")
    with pytest.raises(ConfigError, match=r"default_reward is 5; it must be in -1\.\.1"):
        ingest_features(tmp_path / "log", config(default_reward=5))
    with pytest.raises(DataError, match=r"no signals\.parquet; the table \[reward\] combines signals"):
        ingest_features(tmp_path / "log", config(_REWARD))
    with pytest.raises(DataError, match="no event has a reward yet"):
        ingest_features(raw(tmp_path / "raw"), config(wait_hours=0))
    with pytest.raises(DataError, match=r"all windows are open at the end of the log; .* \(86,400 s\)"):
        ingest_features(tmp_path / "raw", config())


def test_parts_of_an_ingested_log(tmp_path):
    write_feature_log(hand_feature_log(), tmp_path / "rounds" / "training")
    assert feature_log_part(tmp_path / "rounds", "training") == tmp_path / "rounds" / "training"
    with pytest.raises(DataError, match="no rounds for evaluation"):
        feature_log_part(tmp_path / "rounds", "evaluation")
    assert feature_log_part(tmp_path, "evaluation") == tmp_path
    assert len(read_training_log(tmp_path / "rounds")) == len(read_feature_log(tmp_path / "rounds" / "training")) == 4


_SIGNAL_FAULTS = {
    "no weight": ({"type": ["like", "love"]}, r"signals\.parquet: row 2: no weight for the signal 'love'"),
    "range": ({"type": ["like", "watch_fraction"], "value": [1, 1.5]}, r"row 2: watch_fraction is 1\.5; expected"),
    "infinite": ({"value": [float("inf"), 1]}, "row 1: like is inf"),
    "nan": ({"value": [1, float("nan")]}, "row 2: like is nan"),
    "text": ({"value": ["a", "b"]}, "value is of type string; expected numbers"),
    "type": ({"type": [1, 2]}, "type is of type int64; expected text"),
    "no type": ({"type": None}, "no column type; found"),
    "no event": ({"event_id": [None, "a"]}, "row 1: event_id is missing"),
}  # fmt: skip


@pytest.mark.parametrize("fault", _SIGNAL_FAULTS)
def test_a_wrong_signal_is_refused_with_its_row(tmp_path, fault):
    change, message = _SIGNAL_FAULTS[fault]
    columns = {
        "event_id": ["e0", "e1"], "time": pa.array([0, 1], pa.timestamp("ms", "UTC")), "type": ["like", "like"],
    }  # fmt: skip
    columns = {key: value for key, value in (columns | change).items() if value is not None}
    pq.write_table(pa.table(columns), tmp_path / SIGNALS)
    with pytest.raises(DataError, match=message) as caught:
        read_signals(tmp_path, build(RewardConfig, _REWARD, "reward"))
    assert "\n" not in str(caught.value)


def test_signals_without_a_value_count_once(tmp_path):
    columns = {"event_id": ["a", "b"], "time": pa.array([0, 1], pa.timestamp("ms")), "type": ["like", "skip"]}
    pq.write_table(pa.table(columns), tmp_path / SIGNALS)
    table = read_signals(tmp_path, build(RewardConfig, _REWARD, "reward"))
    assert sorted(table.part.tolist()) == [-0.3, 1.0]


def test_signals_become_the_rewards_of_items(tmp_path):
    """A log of items of a ratings table, on 1 to 5: a like is worth 5, a skip 1, what was watched 3 to 5."""
    reward = {"weights": {"like": 5.0, "skip": 1.0, "watched": 1.0}, "default_reward": 2, "wait_seconds": 3600}
    write_events(tmp_path / EVENTS, hand_rounds(4), tables(), with_rewards=False)
    time = [START + HOUR // 2, START + HOUR, START + 3 * HOUR, START + 9 * HOUR]
    write_signals(
        tmp_path / SIGNALS, ["e0", "e1", "e2", "x"], time, ["like", "watched", "skip", "like"], [1, 3.5, 1, 1]
    )
    rounds, _, report = ingest(tmp_path, tables(), config(reward))
    assert rounds.reward.tolist() == [5, 3.5, 1, 2]
    assert (report.joined, report.defaulted, report.unknown_rewards) == (3, 1, 1)
    settings = build(RewardConfig, reward, "reward")
    assert combined_reward([Signal("watched", 3.5, HOUR)], HOUR, settings) == 3.5
    with pytest.raises(DataError, match=r"a combined reward is 0\.3; the scale of the items is 1\.\.5"):
        ingest(tmp_path, tables(), config({**reward, "weights": {"like": 5.0, "skip": 0.3, "watched": 1.0}}))
    clipped = config({**reward, "weights": {"like": 50.0, "skip": 0.3, "watched": 1.0}, "clip": (1, 5)})
    assert ingest(tmp_path, tables(), clipped)[0].reward.tolist() == [5, 3.5, 1, 2]
    with pytest.raises(DataError, match=r"no signals\.parquet"):
        ingest(write_log(tmp_path / "other", hand_rounds(4)), tables(), config(reward))


def test_attributes_of_users_join_the_context(tmp_path):
    """Users 7 and u2 of the log; the table has 7 as text, and nobody else of the log."""
    write_feature_log(hand_feature_log(), tmp_path / "log")
    table = tmp_path / "users.csv"
    table.write_text("user_id,age,member\n7,31,true\nsomebody,20,false\n")
    rounds, *_ = ingest_features(tmp_path / "log", config(users=str(table), wait_hours=0, default_reward=0))
    assert rounds.user.tolist() == [7, "u2", 7, None]
    np.testing.assert_array_equal(rounds.context["age"], [31, np.nan, 31, np.nan])
    assert rounds.context["member"].tolist() == [True, None, True, None]
    assert "hour" in rounds.context
    for text, message in (
        ("user_id,age\n7,1\n7,2\n", r"users\.csv:3: user_id 7 occurs twice"),
        ("user_id,hour\n7,1\n", "the column hour is a context feature of the log already"),
        ("user_id,age\nx,1\n", "none of its 1 users is in the log; expected ids such as 7"),
        ("age\n7\n", "no column user_id; found age"),
    ):
        table.write_text(text)
        with pytest.raises(DataError, match=message):
            ingest_features(tmp_path / "log", config(users=str(table)))
    write_feature_log(replace(hand_feature_log(), user=None), tmp_path / "nobody")
    with pytest.raises(DataError, match="the log names no users"):
        ingest_features(tmp_path / "nobody", config(users=str(table)))
    write_log(tmp_path / "items", hand_rounds(4))
    with pytest.raises(ConfigError, match="leave users out"):
        ingest(tmp_path / "items", tables(), config(users=str(table)))
    with pytest.raises(ConfigError, match="normalize is for policies of features"):
        ingest(tmp_path / "items", tables(), config({"normalize": True}))
