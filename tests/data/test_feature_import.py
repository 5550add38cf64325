"""Logs of other systems become feature logs with all their features; every fault is named by file and line."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_open_bandit import HEADER, LINES, changed
from test_open_bandit import write as write_csv
from test_vowpal_wabbit import line, write

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_import import read_vowpal_wabbit_features
from recpolicy.data.feature_tables import read_feature_table, read_open_bandit_features
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit


def test_open_bandit_features_are_kept(tmp_path):
    path = write_csv(tmp_path / "log.csv")
    found = read_open_bandit_features(path)
    log, plain = found.log, read_open_bandit(path).rounds
    assert found.lost == ()
    assert set(log.context) == {"position", "user_feature_0", "user_feature_1", "user-item_affinity_0"}
    assert log.context["user_feature_0"].tolist() == ["bb", "aa", "aa", "aa"]
    assert log.context["position"].tolist() == [2, 1, 3, 1]
    assert log.context["user-item_affinity_0"].tolist() == [1.5, 0, 0, 0]
    assert log.action_id.tolist() == [9, 12, 30]
    assert log.count.tolist() == [3] * 4
    assert log.user is None
    # The rest equals that of the import without features.
    assert log.action_id[log.chosen_action].tolist() == [9, 12, 12, 30]
    for name in ("time", "reward", "log_propensity"):
        np.testing.assert_array_equal(getattr(log, name), getattr(plain, name))


def test_a_table_of_actions_gives_features_and_the_catalog(tmp_path):
    items = tmp_path / "item_context.csv"
    items.write_text(",item_id,price,brand\n0,9,1.5,a\n1,12,,b\n2,30,2,\n3,99,1,c\n")
    log = read_open_bandit_features(write_csv(tmp_path / "log.csv"), items=items).log
    assert log.action_id.tolist() == [9, 12, 30, 99]
    np.testing.assert_array_equal(log.actions["price"], [1.5, np.nan, 2, 1])
    assert log.actions["brand"].tolist() == ["a", "b", None, "c"]
    assert log.chosen_action.tolist() == [0, 1, 1, 2]
    items.write_text("item_id,price\n9,1\n12,2\n")
    with pytest.raises(DataError, match=r"log\.csv:5: item_id 30 is not in the table of actions"):
        read_open_bandit_features(tmp_path / "log.csv", items=items)
    items.write_text("item_id,price\n9,1\n9,2\n")
    with pytest.raises(DataError, match=r"item_context\.csv:3: item_id 9 occurs twice"):
        read_open_bandit_features(tmp_path / "log.csv", items=items)


def test_the_id_of_a_row_does_not_depend_on_its_part(tmp_path):
    whole = read_open_bandit_features(write_csv(tmp_path / "log.csv", [*LINES, LINES[0]])).log
    part = read_open_bandit_features(write_csv(tmp_path / "part.csv", LINES[2:])).log
    assert len(set(whole.event_id)) == 5
    assert set(part.event_id) < set(whole.event_id)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("propensity_score", "0", r"log\.csv:4: propensity 0: expected a probability"),
        ("propensity_score", "a", r"log\.csv:4: propensity_score 'a': expected a number"),
        ("click", "2", r"log\.csv:4: reward 2 is not in 0\.\.1; give --scale"),
        ("item_id", "", r"log\.csv:4: item_id is missing"),
        ("timestamp", "noon", r"log\.csv:4: timestamp 'noon': expected a time"),
    ],
)
def test_a_wrong_row_is_refused(tmp_path, column, value, message):
    with pytest.raises(DataError, match=message):
        read_open_bandit_features(write_csv(tmp_path / "log.csv", changed(column, value)))


def test_columns_of_an_own_table(tmp_path):
    """The same rounds as CSV, Parquet and JSON lines are one log."""
    names = ("when", "who", "what", "gain", "prob", "hour", "new", "tag")
    first = (5_000_000_000_000, "u1", "b", -0.5, 0.25, 8, True, "x")
    values = first, (4_000_000_000_000, "u2", "a", 1.0, 0.5, 9.5, False, "y")
    rows = [dict(zip(names, row, strict=True)) for row in values]
    header = ",".join(rows[0])
    (tmp_path / "t.csv").write_text("\n".join([header, *(",".join(map(str, row.values())) for row in rows)]))
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    columns = {"time": "when", "user": "who", "item": "what", "reward": "gain", "propensity": "prob"}
    options = {"scale": (-1.0, 1.0), "columns": columns, "context": ["hour", "new"]}
    logs = [read_feature_table(tmp_path / name, **options) for name in ("t.csv", "t.jsonl", "t.parquet")]
    for found in logs:
        log = found.log
        assert found.lost == ("tag",)
        assert log.user.tolist() == ["u2", "u1"]
        assert log.action_id[log.chosen_action].tolist() == ["a", "b"]
        assert log.reward.tolist() == [1.0, -0.5]
        assert log.context["hour"].tolist() == [9.5, 8.0]
        assert log.context["new"].tolist() == [False, True]
        assert log.time.tolist() == [4_000_000_000_000, 5_000_000_000_000]
        assert log.reward_range == (-1.0, 1.0)
    without = read_feature_table(tmp_path / "t.csv", **{**options, "context": None}, unit="round").log
    assert without.user is None
    assert set(without.context) == {"hour", "new", "tag"}
    with pytest.raises(DataError, match=r"no column mood; found when, who"):
        read_feature_table(tmp_path / "t.csv", **{**options, "context": ["mood"]})
    with pytest.raises(
        DataError, match=r"no column time, action_id, reward, propensity; found .*name them with --time"
    ):
        read_feature_table(tmp_path / "t.csv")
    del columns["user"]
    with pytest.raises(ConfigError, match="no column of users"):
        read_feature_table(tmp_path / "t.csv", (-1.0, 1.0), columns=columns, unit="user")


def test_each_round_may_have_its_own_actions(tmp_path):
    rows = [
        {"time": 1000, "action_id": "a", "reward": 1, "propensity": 0.5, "hour": 1,
         "offers": [{"id": "a", "price": 2}, {"id": "b", "price": 3}]},
        {"time": 2000, "action_id": "c", "reward": 0, "propensity": 1, "hour": 2, "offers": [{"id": "c", "price": 2}]},
        {"time": 3000, "action_id": "b", "reward": 0, "propensity": 0.5, "hour": 3,
         "offers": [{"id": "b", "price": 3}, {"id": "a", "price": 4}]},
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    logs = [read_feature_table(tmp_path / name, actions="offers").log for name in ("t.parquet", "t.jsonl")]
    assert logs[0].digest.isalnum()
    for log in logs:
        assert log.action_id.tolist() == ["a", "b", "c", "a"]
        assert log.actions["price"].tolist() == [2, 3, 2, 4]
        assert log.offered.tolist() == [0, 1, 2, 1, 3]
        assert log.chosen.tolist() == [0, 0, 0]
        assert log.context["hour"].tolist() == [1, 2, 3]
    rows[1]["action_id"] = "z"
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"t\.jsonl:2: the action 'z' is none of its 1 actions"):
        read_feature_table(tmp_path / "t.jsonl", actions="offers")
    rows[1]["offers"] = "[1"
    (tmp_path / "t.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(DataError, match=r"t\.jsonl:2: offers is not JSON"):
        read_feature_table(tmp_path / "t.jsonl", actions="offers")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.jsonl", "a.csv.gz"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00\x12", b"{", b"PAR1", b"a,b\n1\n2,3,4,5\n"])
def test_no_table_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    for path in (tmp_path / name, tmp_path / "missing" / name):
        with pytest.raises(DataError) as caught:
            read_feature_table(path)
        assert "\n" not in str(caught.value)


def test_vowpal_wabbit_features_and_namespaces_are_kept(tmp_path):
    records = [line(2), line(1, cost=-0.25, probability=0.5, user="7", Timestamp="2026-01-05T00:00:02Z")]
    records[1]["c"]["_multi"][1]["Item"]["year"] = 1995
    path = write(tmp_path / "log.json", *records)
    log = read_vowpal_wabbit_features(path, user="User.id").log
    plain = read_vowpal_wabbit(path, user="User.id").rounds
    assert log.context["User"].tolist() == [{"age": 24.0, "id": "1"}, {"age": 24.0, "id": "7"}]
    assert log.action_id.tolist() == ["11", "12", "15", "12"]
    assert log.actions["Item"].tolist() == [
        {"n": {"id": "11"}}, {"n": {"id": "12"}}, {"n": {"id": "15"}}, {"n": {"id": "12"}, "year": 1995.0}
    ]  # fmt: skip
    assert log.offered.tolist() == [0, 1, 2, 0, 3, 2]
    assert log.chosen.tolist() == [1, 0]
    assert log.user.tolist() == ["1", "7"]
    assert log.weight is None
    for name in ("event_id", "time", "reward", "log_propensity"):
        np.testing.assert_array_equal(getattr(log, name), getattr(plain, name))


def test_a_line_of_personalizer(tmp_path):
    """dsjson as the retired service logged it: lists of namespaces, `_tag` for ids, `o` for outcomes."""
    record = {
        "_label_cost": -1.0, "_label_probability": 0.8, "_label_Action": 2, "_labelIndex": 1,
        "o": [{"v": 1.0, "EventId": "7a", "ActionId": None}], "Timestamp": "2026-01-05T12:00:00.1234567Z",
        "Version": "1", "EventId": "7a", "a": [2, 1], "p": [0.8, 0.2], "pdrop": 0.0, "VWState": {"m": "x"},
        "c": {
            "FromUrl": [{"timeOfDay": "morning", "device": {"os": "ios"}}],
            "_multi": [
                {"_tag": "pasta", "i": {"constant": 1, "id": "pasta"}, "j": [{"spicy": True, "kcal": 400}]},
                {"_tag": "salad", "i": {"constant": 1, "id": "salad"}, "j": [{"spicy": False, "kcal": 100}]},
            ],
        },
    }  # fmt: skip
    skipped = {**record, "EventId": "7b", "_skipLearn": True}
    dangling = {"EventId": "7c", "o": [{"v": 1.0}], "RewardValue": 1.0}
    found = read_vowpal_wabbit_features(write(tmp_path / "log.json", record, skipped, dangling))
    log = found.log
    assert (found.left_out.skipped, found.left_out.dangling) == (1, 1)
    assert log.action_id.tolist() == ["pasta", "salad"]
    assert set(log.actions) == {"i", "j"}
    assert log.actions["j"][1] == [{"kcal": 100.0, "spicy": False}]
    assert log.context["FromUrl"][0] == [{"device": {"os": "ios"}, "timeOfDay": "morning"}]
    assert (log.chosen.tolist(), log.reward.tolist()) == ([1], [1.0])
    assert log.time[0] % 1000 == 123


def test_lines_of_different_pdrop_have_weights(tmp_path):
    path = write(tmp_path / "log.json", line(1, pdrop=0.5), line(2, pdrop=0.0), line(3, pdrop=0.9))
    log = read_vowpal_wabbit_features(path).log
    np.testing.assert_allclose(log.weight, [2, 1, 10])
    with pytest.raises(DataError, match="import the lines of each pdrop as a log, or give --keep-features"):
        read_vowpal_wabbit(path)
    with pytest.raises(DataError, match=r"log\.json:1: pdrop is 1\.0; expected a probability below 1"):
        read_vowpal_wabbit_features(write(path, line(1, pdrop=1.0)))


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (line(2, probability=0.0), "propensity 0.0: expected a probability"),
        (line(2, cost=-3), "reward 3 is not in 0..1; give --scale"),
        (line(2, _outcomes=[]), "a line of slots .CCB. in a log of one choice a line"),
        ("{", "not JSON"),
        ("[]\n", "not a JSON object"),
        ('{"c": ' * 2000 + "\n", "not JSON|recursion"),
        (line(2) | {"c": {"User": {"x": float("inf")}, "_multi": line(2)["c"]["_multi"]}}, "infinite"),
    ],
)
def test_a_wrong_line_is_refused(tmp_path, record, message):
    with pytest.raises(DataError, match=message) as caught:
        read_vowpal_wabbit_features(write(tmp_path / "log.json", line(1), record))
    assert "log.json:2: " in str(caught.value)


def test_options_are_checked(tmp_path):
    path = write(tmp_path / "log.json", line(1))
    with pytest.raises(ConfigError, match="scale"):
        read_vowpal_wabbit_features(path, (1, 1))
    with pytest.raises(ConfigError, match="no unit of a log named 'day'"):
        read_vowpal_wabbit_features(path, unit="day")
    assert HEADER.startswith(",")
