"""Feature logs: records, cuts, digests, and files that are read back equal or refused with one line."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hand_feature_logs import hand_feature_log, rewritten, with_column

from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import action_digest, column_from_values, columns_from_records, plain_value
from recpolicy.data.feature_log_builder import FeatureLogBuilder, log_of_propensity
from recpolicy.data.feature_log_files import (
    ACTIONS,
    ROUNDS,
    is_feature_log,
    read_feature_log,
    write_feature_log,
)
from recpolicy.data.feature_log_json import write_json_lines
from recpolicy.data.learned_events import log_events

_COLUMNS = (
    "event_id", "time", "action_id", "action_digest", "start", "offered", "chosen", "log_propensity", "reward",
    "policy", "version", "user", "weight",
)  # fmt: skip


def assert_same(log, other):
    for name in _COLUMNS:
        np.testing.assert_array_equal(getattr(log, name), getattr(other, name), err_msg=name)
    for columns, others in ((log.context, other.context), (log.actions, other.actions)):
        assert set(columns) == set(others)
        for name in columns:
            assert columns[name].dtype == others[name].dtype, name
            np.testing.assert_array_equal(columns[name], others[name], err_msg=name)
    assert log.digest == other.digest


def test_each_distinct_action_is_stored_once():
    log = hand_feature_log()
    assert log.action_id.tolist() == ["news", "music", 3, "news"]
    assert log.offered.tolist() == [0, 1, 1, 0, 2, 3, 1, 3]
    assert log.chosen_action.tolist() == [1, 2, 3, 3]
    np.testing.assert_array_equal(log.actions["price"], [2, 0.5, np.nan, 3])
    assert log.context["device"][0] == {"new": True, "os": "a"}
    assert log.context["device"][1] is None
    assert log.context["big"][2] == str(2**60)
    assert log.units.tolist() == [0, 1, 0, 2]  # the round without a user is a part of its own


@pytest.mark.parametrize("form", ["parquet", "jsonl", "jsonl.gz"])
def test_files_are_read_back_equal(tmp_path, form):
    log = hand_feature_log()
    if form == "parquet":
        path = tmp_path / "log"
        write_feature_log(log, path)
        again = read_feature_log(path)
        assert again.reward_range == (-1.0, 1.0)
    else:
        path = tmp_path / "log.jsonl"
        write_json_lines(log, path)
        if form == "jsonl.gz":
            (tmp_path / "log.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
            path = tmp_path / "log.jsonl.gz"
        again = read_feature_log(path, reward_range=(-1.0, 1.0))
    assert is_feature_log(path)
    assert_same(log, again)


def test_pieces_with_and_without_a_feature_are_joined(tmp_path):
    """A later part of a growing log has features that the first lacks, and actions of its own."""
    log = hand_feature_log()
    write_feature_log(log.take(0, 1, "a"), tmp_path / "a")
    write_feature_log(log.take(1, 4, "b"), tmp_path / "b")
    for name in (ROUNDS, ACTIONS):
        stem = name.removesuffix(".parquet")
        (tmp_path / "b" / name).rename(tmp_path / "a" / f"{stem}-000001.parquet")
    rewritten(tmp_path / "a", _shifted(2), "rounds-000001.parquet")
    again = read_feature_log(tmp_path / "a")
    assert again.digest == log.digest
    assert again.action_id.tolist() == ["news", "music", 3, "news"]  # an action of both parts is one


def _shifted(by):
    def change(table):
        offered = [[row + by for row in rows] for rows in table["offered"].to_pylist()]
        return with_column("offered", offered, pa.list_(pa.int32()))(table)

    return change


def test_a_part_that_is_cut_equals_the_same_part_of_a_file(tmp_path):
    part = hand_feature_log().select(np.array([3, 2]), "part")
    assert part.action_id.tolist() == ["music", "news"]
    write_feature_log(part, tmp_path)
    assert_same(part, read_feature_log(tmp_path))


def test_the_digest_depends_on_every_column_and_on_no_name():
    log = hand_feature_log()
    assert log.digest == hand_feature_log("another").digest
    digests = {log.digest, log.take(0, 3, "").digest, log.select(np.array([1, 0, 2, 3]), "").digest}
    for change in (
        {"reward": np.zeros(4)}, {"chosen": np.zeros(4, np.int32)}, {"weight": None}, {"user": None},
        {"context": {**log.context, "hour": np.arange(4.0)}}, {"reward_range": None},
        {"context": {name: column for name, column in log.context.items() if name != "mood"}},
    ):  # fmt: skip
        digests.add(replace(log, **change).digest)
    assert len(digests) == 10


def test_equal_contents_have_one_hash():
    assert action_digest("a", {"x": 3, "y": None, "z": {"b": 1, "a": [1, 2]}}) == action_digest(
        "a", {"z": {"a": [1.0, 2], "b": 1}, "x": 3.0}
    )
    assert action_digest("3", {}) != action_digest(3, {})
    assert action_digest("a", {"x": True}) != action_digest("a", {"x": 1})
    assert action_digest("a", {"x": float("nan")}) == action_digest("a", {})
    # Fixed: logs and databases keep these hashes.
    assert action_digest("a", {"x": 1}) == "9b4a50a2c1aa2187de4e09e0fdc16812"


def test_splits_keep_moments_and_users_together():
    log = hand_feature_log()
    first, second = log.split_by_time(0.5)
    assert (first.event_id.tolist(), second.event_id.tolist()) == (["e0", "e1"], ["e2", "e3"])
    together = replace(log, time=np.array([0, 5, 5, 5]))
    assert [len(part) for part in together.split_by_time(0.25)] == [1, 3]
    for seed in range(5):
        train, test = log.split_by_user(0.34, seed)
        assert len(train) + len(test) == 4
        assert not {7}.issubset(set(train.user)) or 7 not in set(test.user)
    with pytest.raises(DataError, match="cannot be divided"):
        log.split_by_time(0.0)


def test_learned_events_are_those_of_the_ids():
    log = hand_feature_log()
    assert len(log_events(log)) == 4
    assert set(log_events(log.take(1, 3, ""))) < set(log_events(log))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, None, 2.5], [1.0, float("nan"), 2.5]),
        ([True, False], [True, False]),
        ([True, None], [True, None]),
        ([1, "a", True], [1.0, "a", True]),
        ([2**60, 1], [str(2**60), 1.0]),
        ([None, None], [None, None]),
        ([[1, 2], ["a"]], [[1.0, 2.0], ["a"]]),
    ],
)
def test_values_of_a_column(values, expected):
    column = column_from_values(values)
    assert column.dtype == np.array(expected, object if any(value is None or isinstance(value, str | list)
        for value in expected) else None).dtype  # fmt: skip
    assert repr(column.tolist()) == repr(expected)


def test_values_that_are_no_features():
    with pytest.raises(DataError, match="infinite"):
        columns_from_records([{"x": float("inf")}])
    with pytest.raises(DataError, match="x is bytes; expected a number, text"):
        columns_from_records([{"x": b"a"}])
    deep = []
    for _ in range(30):
        deep = [deep]
    with pytest.raises(DataError, match="nested more than 20"):
        plain_value(deep)


def _offered(rows):
    return with_column("offered", rows, pa.list_(pa.int32()))


_FAULTS = {
    "chosen beyond": (with_column("chosen", [2, 2, 0, 1], pa.int32()), "row 1: chosen is 2; expected a position"),
    "offers nothing": (_offered([[0, 1], [], [3], [1, 3]]), "row 2: offered has no"),
    "unknown action": (_offered([[0, 1], [1, 0, 9], [3], [1, 3]]), "row 2: offered"),
    "action twice": (_offered([[0, 1], [1, 1, 0], [3], [1, 3]]), "'music' is offered twice"),
    "same id twice": (_offered([[0, 1], [0, 3, 1], [3], [1, 3]]), "round 1: action 'news' is offered twice"),
    "event twice": (with_column("event_id", ["a", "b", "a", "c"]), "event_id 'a' occurs twice"),
    "positive propensity": (with_column("log_propensity", [0.5, 0.0, 0.0, 0.0]), "row 1: log_propensity 0.5"),
    "float32": (with_column("log_propensity", [0.0] * 4, pa.float32()), "log_propensity is of type float; expected"),
    "infinite reward": (with_column("reward", [0.0, float("inf"), 0, 0]), "row 2: reward is inf"),
    "reward off range": (with_column("reward", [0.0, 3.0, 0, 0]), "round 1: reward 3.0: expected within -1..1"),
    "reward text": (with_column("reward", ["a"] * 4), "reward is of type string; expected numbers"),
    "weight": (with_column("weight", [1.0, 0.0, 1.0, 1.0]), "row 2: weight is 0.0; expected a positive number"),
    "user": (with_column("user_id", [1.5, 2.0, 1.0, 1.0]), "row 1: user_id is 1.5; expected a whole number or text"),
    "no time": (lambda table: table.drop_columns(["time"]), "no column time; found"),
    "context text": (with_column("context", ["a"] * 4), "context is of type string; expected a struct"),
    "other format": (
        lambda table: table.replace_schema_metadata({b"recpolicy": b'{"format": "recpolicy log"}'}), "written as"
    ),
    "empty": (lambda table: table.slice(0, 0), "no rounds"),
}  # fmt: skip


@pytest.mark.parametrize("fault", _FAULTS)
def test_a_wrong_file_is_refused_with_one_line(tmp_path, fault):
    write_feature_log(hand_feature_log(), tmp_path)
    change, message = _FAULTS[fault]
    rewritten(tmp_path, change)
    with pytest.raises(DataError, match=message.replace("(", r"\(")) as caught:
        read_feature_log(tmp_path)
    assert "\n" not in str(caught.value)


def test_actions_of_another_log_are_refused(tmp_path):
    write_feature_log(hand_feature_log(), tmp_path)
    rewritten(tmp_path, with_column("digest", ["0" * 32] * 4), ACTIONS)
    with pytest.raises(DataError, match="row 1: the digest is not that of the action"):
        read_feature_log(tmp_path)
    write_feature_log(hand_feature_log().take(0, 1, "x"), tmp_path / "x")
    (tmp_path / "x" / ACTIONS).replace(tmp_path / ACTIONS)
    with pytest.raises(DataError, match="its actions are not those that rounds"):
        read_feature_log(tmp_path)
    (tmp_path / ACTIONS).write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_feature_log(tmp_path)
    (tmp_path / ACTIONS).unlink()
    with pytest.raises(DataError, match="no such file"):
        read_feature_log(tmp_path)


_ROUND = {
    "event_id": "e", "time": 0, "context": {"hour": 1}, "actions": [{"id": "a"}, {"id": "b", "features": {"x": 1}}],
    "chosen": "a", "propensity": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"chosen": "c"}, "chosen is 'c'; expected the id of one of its 2 actions"),
        ({"propensity": 0}, "propensity 0.0: expected a probability"),
        ({"propensity": float("nan")}, "propensity is nan; expected a finite number"),
        ({"log_propensity": 0}, "one of propensity and log_propensity"),
        ({"actions": []}, "actions is []; expected a list"),
        ({"actions": [{"id": "a"}, {"id": "a"}]}, "action 'a' is offered twice"),
        ({"actions": [{"id": "a"}, {"id": ""}]}, "the action id ''"),
        ({"actions": [{"id": "a"}, {"id": True}]}, "the action id True"),
        ({"actions": [{"id": "a", "features": 3}]}, "an action is"),
        ({"context": [1]}, "context is [1]; expected an object"),
        ({"context": {"x": float("inf")}}, "the context is infinite"),
        ({"time": "noon"}, "time is 'noon'; expected such as"),
        ({"reward": "a"}, "reward is 'a'; expected a finite number"),
        ({"reward": True}, "reward is True; expected a finite number"),
        ({"user": 1.5}, "user is 1.5; expected"),
        ({"weight": -1}, "weight"),
        ({"event_id": 3}, "event_id is 3; expected a text"),
        ({"rewards": 3}, "the key 'rewards' is unknown; expected event_id"),
    ],
)
def test_a_wrong_line_is_refused_with_its_number(tmp_path, change, message):
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join(["", json.dumps(_ROUND), json.dumps({**_ROUND, "event_id": "f", **change})]))
    with pytest.raises(DataError) as caught:
        read_feature_log(path)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [b"", b"[1]", b"{", b'{"x": ' + b"[" * 9000, b"\x00", b"\xff\xfe", b"\x1f\x8b\x08"])
def test_no_json_is_one_line(tmp_path, text):
    path = tmp_path / "log.jsonl"
    path.write_bytes(text)
    with pytest.raises(DataError) as caught:
        read_feature_log(path)
    assert "\n" not in str(caught.value)
    assert not is_feature_log(path)


def test_a_wrong_round_adds_nothing():
    builder = FeatureLogBuilder("log")
    arguments = {"event_id": "e", "time": 0, "context": {}, "actions": [("a", {})], "log_propensity": 0.0}
    with pytest.raises(DataError):
        builder.add(**arguments, chosen=1)
    with pytest.raises(DataError, match="no rounds"):
        builder.build()
    builder.add(**arguments, chosen=0)
    assert builder.build().context == {}
    assert log_of_propensity(1.0) == 0.0
