"""Logs as Vowpal Wabbit, Personalizer and others write them: one right value, or one line that names the fault."""

import gzip
import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hand_logs import hand_rounds, write_log

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_import import LeftOut
from recpolicy.data.log_vocabulary import own_vocabulary
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit
from recpolicy.workflows.evaluation_rounds import rounds_of_users
from recpolicy.workflows.imported_logs import import_log
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds

TWO = [{"_tag": "a"}, {"_tag": "b"}]
PLAIN = {"_label_cost": -1, "_label_probability": 0.5, "_label_Action": 2, "user": "u1", "_multi": TWO}


def written(folder, *records, name="log.json", start=""):
    lines = (record if isinstance(record, str) else json.dumps(record) for record in records)
    path = folder / name
    text = (start + "\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def shown(imported):
    """(item, reward, propensity) of the rounds."""
    rounds, items = imported.rounds, imported.tables.items["item_id"].to_numpy()
    return [
        (items[item], reward, pytest.approx(probability, rel=1e-12))
        for item, reward, probability in zip(rounds.item, rounds.reward.tolist(), rounds.propensity, strict=True)
    ]


def without(record, *names):
    return {key: value for key, value in record.items() if key not in names}


BARE = without(PLAIN, "_label_cost", "_label_probability", "_label_Action")
LABELS = {
    "lower case": PLAIN,
    "capitals": {**BARE, "_labelIndex": 1, "_label_Action": 2, "_label_Cost": -1, "_label_Probability": 0.5},
    "index alone": {**BARE, "_labelIndex": 1, "_label_cost": -1, "_label_probability": 0.5},
    "index before action": {**PLAIN, "_labelIndex": 1, "_label_Action": 0},
    "in the action": {**BARE, "_multi": [{"_tag": "a"}, {"_tag": "b", "_label": "0:-1:0.5"}]},
    "in the action, a place of its own": {**BARE, "_multi": [{"_tag": "a"}, {"_tag": "b", "_label": "7:-1:.5"}]},
    "object in the action": {
        **BARE, "_multi": [{"_tag": "a"}, {"_tag": "b", "_label": {"Cost": -1, "Probability": 0.5}}]
    },
    "text": {**BARE, "_label": "2:-1:0.5"},
    "object": {**BARE, "_label": {"Action": 2, "Cost": -1.0, "Probability": 0.5}},
}  # fmt: skip


@pytest.mark.parametrize("form", LABELS)
def test_every_form_of_the_label_is_read(tmp_path, form):
    for name in ("log.json", "log.json.gz"):
        found = read_vowpal_wabbit(written(tmp_path, LABELS[form], name=name))
        assert shown(found) == [("b", 1.0, 0.5)]
        assert found.tables.users["user_id"].tolist() == ['{"user":"u1"}']
    assert read_vowpal_wabbit(tmp_path / "log.json", user="user").tables.users["user_id"].tolist() == ["u1"]


def test_the_label_of_an_action_is_no_feature(tmp_path):
    actions = [{"f": 1, "_label": "0:-1:0.5"}, {"f": 2}]
    found = read_vowpal_wabbit(written(tmp_path, {"u": 1, "_multi": actions}))
    assert found.tables.items["item_id"].tolist() == ['{"f":1}', '{"f":2}']


def offered(*tags, p=(0.25, 0.25, 0.25, 0.25), action=1, **more):
    return {
        "_label_cost": -1, "_label_probability": p[action - 1], "_label_Action": action, "a": [1, 2, 3, 4],
        "p": [*p], "c": {"u": 1, "_multi": [{"_tag": tag} for tag in tags]}, **more,
    }  # fmt: skip


def test_an_action_that_is_offered_twice_has_the_sum_of_its_probabilities(tmp_path):
    once = offered("Mocha", "Latte", "Tea", "Mocha", action=2, p=(0.1, 0.2, 0.3, 0.4))
    twice = offered("Mocha", "Latte", "Tea", "Mocha", p=(0.1, 0.2, 0.3, 0.4))
    found = read_vowpal_wabbit(written(tmp_path, once, twice))
    assert shown(found) == [("Latte", 1.0, 0.2), ("Mocha", 1.0, 0.5)]
    assert found.rounds.candidates is None  # three items, which all rounds have
    numbers = {**without(once, "c"), "a": [1, 2, 1, 3], "_label_Action": 1, "_label_probability": 0.1}
    assert shown(read_vowpal_wabbit(written(tmp_path, numbers))) == [(1, 1.0, 0.4)]
    bare = without(twice, "a", "p")
    with pytest.raises(
        DataError, match=r"log\.json:1: the shown action is offered 2 times; its probability needs a and p"
    ):
        read_vowpal_wabbit(written(tmp_path, bare))
    assert shown(read_vowpal_wabbit(written(tmp_path, without(once, "a", "p")))) == [("Latte", 1.0, 0.2)]


def test_the_probabilities_may_be_called_p_with_a_line_below(tmp_path):
    record = offered("a", "b", "c", "d")
    below = {**without(record, "p"), "_p": [0.9, 0.05, 0.03, 0.02]}
    with pytest.raises(DataError, match=r"p gives action 1 0\.9, but _label_probability is 0\.25"):
        read_vowpal_wabbit(written(tmp_path, below))


NAMESPACES = {
    "FromUrl": [{"name": "ann", "time": "noon"}, {"device": "phone"}], "a.b": {"c": 7.0}, "deep": [{"x": [{"y": "z"}]}],
    "clash": [{"n": 1}, {"n": 2}], "flag": True,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "user"),
    [("FromUrl.name", "ann"), ("FromUrl.device", "phone"), ("a.b.c", 7), ("deep.x.y", "z"), ("flag", "True")],
)
def test_dotted_names_go_through_lists_and_keys_with_dots(tmp_path, name, user):
    record = {
        **without(PLAIN, "user", "_multi"),
        "c": {**NAMESPACES, "_multi": [{"j": [{"sku": "s1"}]}, {"j": [{"sku": "s2"}]}]},
    }
    found = read_vowpal_wabbit(written(tmp_path, record), user=name, item="j.sku")
    assert found.tables.users["user_id"].tolist() == [user]
    assert shown(found) == [("s2", 1.0, 0.5)]
    with pytest.raises(DataError, match=r"log\.json:1: clash\.n has several values: 1, 2"):
        read_vowpal_wabbit(tmp_path / "log.json", user="clash.n")
    with pytest.raises(DataError, match=r"log\.json:1: no FromUrl\.nam among the features FromUrl, a\.b, deep"):
        read_vowpal_wabbit(tmp_path / "log.json", user="FromUrl.nam")


DANGLING = {"RewardValue": 1, "EventId": "e9"}


def test_lines_that_are_no_events_are_read_over_or_counted(tmp_path):
    for start in ("", "\ufeff"):
        path = written(tmp_path, PLAIN, "", DANGLING, "   ", PLAIN, "", start=start)
        found = read_vowpal_wabbit(path)
        assert shown(found) == [("b", 1.0, 0.5)] * 2
        assert found.left_out == LeftOut(dangling=1)
    cut = written(tmp_path, PLAIN, json.dumps(PLAIN)[:40], PLAIN)
    with pytest.raises(
        DataError, match=r"log\.json:2: not JSON \(column \d+: .*--skip-damaged to leave out such lines$"
    ):
        read_vowpal_wabbit(cut)
    found = read_vowpal_wabbit(cut, skip_damaged=True)
    assert (len(found.rounds), found.left_out) == (2, LeftOut(damaged=1))
    report = import_log(cut, tmp_path / "log", "vw", skip_damaged=True)
    assert (report.damaged, report.dangling, report.unit) == (1, 0, "round")


def test_lines_that_stand_for_different_numbers_of_events_are_refused(tmp_path):
    half = [{**PLAIN, "pdrop": 0.5, "user": f"u{number}"} for number in range(3)]
    assert "pdrop 0.5: the log is a sample of its events" in read_vowpal_wabbit(written(tmp_path, *half)).lost
    with pytest.raises(DataError, match=r"log\.json:4: pdrop is 0, but 0\.5 in earlier lines"):
        read_vowpal_wabbit(written(tmp_path, *half, PLAIN))


@pytest.mark.parametrize("value", [1.0000001192092896, 1.0000000000000002, 1])
def test_a_probability_a_rounding_above_1_is_1(tmp_path, value):
    record = {**PLAIN, "_label_probability": value}
    assert shown(read_vowpal_wabbit(written(tmp_path, record))) == [("b", 1.0, 1.0)]
    table = table_of(tmp_path, propensity_score=value)
    assert read_open_bandit(table).rounds.propensity.tolist() == [1.0, 1.0]
    with pytest.raises(DataError, match=r"propensity 1\.00002: expected a probability in \(0, 1\]"):
        read_open_bandit(table_of(tmp_path, propensity_score=1.00002))


def table_of(folder, **columns):
    base = {"timestamp": "2024-01-01 00:00:00", "item_id": [1, 2], "click": [0, 1], "propensity_score": 0.5}
    pd.DataFrame({**base, **columns}).to_csv(folder / "log.csv", index=False)
    return folder / "log.csv"


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (1574553600, 1574553600000),
        (1574553600123, 1574553600123),
        ("1574553600.5", 1574553600500),
        ("2019-11-24 00:00:00 UTC", 1574553600000),
        ("2019-11-24T01:00:00+01:00", 1574553600000),
    ],
)
def test_times_of_a_table_of_decisions(tmp_path, time, expected):
    assert read_open_bandit(table_of(tmp_path, timestamp=time)).rounds.time.tolist() == [expected] * 2
    with pytest.raises(DataError, match=r"log\.csv:2: timestamp '1e17': expected seconds or milliseconds since 1970"):
        read_open_bandit(table_of(tmp_path, timestamp="1e17"))


def test_truth_values_whole_floats_blank_lines_and_separators(tmp_path):
    table = table_of(tmp_path, click=[True, False], item_id=["12.0", "7"], user_id=["3.0", "4"])
    expected = [(12, 1.0, 0.5), (7, 0.0, 0.5)]
    found = read_open_bandit(table)
    assert shown(found) == expected
    assert found.tables.users["user_id"].tolist() == [3, 4]
    text = table.read_text()
    for separator in (";", "::", "\t"):
        table.write_text("\n".join([*text.replace(",", separator).splitlines(), "", ""]))
        assert shown(read_open_bandit(table, separator=separator)) == expected
    with pytest.raises(
        DataError, match=r"has one column when split at ',', and contains '\\t'; give --separator '\\t'"
    ):
        read_open_bandit(table)
    table.write_text(text.replace("\n", "\n\n").rstrip() + "\n2024-01-01,9,2,0.5,1\n")
    with pytest.raises(DataError, match=r"log\.csv:6: reward 2 is not in 0\.\.1"):
        read_open_bandit(table)


def test_a_table_of_decisions_has_columns_of_its_own(tmp_path):
    text = "event_time,visitor,action,reward,propensity\n2024-01-01 00:00:00,v1,a,1,0.3333\n"
    (tmp_path / "log.csv").write_text(text)
    columns = {
        "time": "event_time", "user": "visitor", "item": "action", "reward": "reward", "propensity": "propensity"
    }  # fmt: skip
    found = read_open_bandit(tmp_path / "log.csv", columns=columns)
    assert shown(found) == [("a", 1.0, 0.3333)]
    assert found.tables.users["user_id"].tolist() == ["v1"]
    assert (found.lost, found.rounds.unit) == ((), None)
    nobody = read_open_bandit(tmp_path / "log.csv", columns=without(columns, "user"))
    assert (nobody.tables.users["user_id"].tolist(), nobody.rounds.unit) == (["everybody"], "round")
    with pytest.raises(DataError, match=r"no column click; found event_time.*name it with --reward reward"):
        read_open_bandit(tmp_path / "log.csv", columns=without(columns, "reward"))
    with pytest.raises(DataError, match=r"no column who; found .*name it with --user NAME"):
        read_open_bandit(tmp_path / "log.csv", columns={**columns, "user": "who"})


def test_the_unit_of_a_log_goes_through_files(tmp_path):
    records = [{**without(PLAIN, "user"), "_label_cost": -(number % 2)} for number in range(20)]
    import_log(written(tmp_path, *records), tmp_path / "log", "vw")
    ingest_log(tmp_path / "log", tmp_path / "rounds")
    tables = own_vocabulary(tmp_path / "log", (0, 1))
    rounds = read_rounds(tmp_path / "rounds" / "training.parquet", tables)
    assert rounds.unit == "round"
    assert rounds.units.tolist() == [*range(16)]
    halves = [rounds_of_users(rounds, half) for half in ("selection", "gate")]
    assert sum(map(len, halves)) == 16
    assert min(map(len, halves)) > 0
    ingest_log(tmp_path / "log", tmp_path / "by-user", config={"unit": "user"})
    again = read_rounds(tmp_path / "by-user" / "training.parquet", tables)
    assert (again.unit, set(again.units.tolist())) == (None, {0})


def test_ids_of_ones_own_log_are_those_of_its_events(tmp_path):
    rounds = hand_rounds(candidates=True)
    write_log(tmp_path / "log", rounds)
    found = own_vocabulary(tmp_path / "log", (0, 1))
    assert found.items["item_id"].tolist() == [11, 12, 13, 15, 16]
    assert found.scale == (1.0, 5.0)  # the file says so
    (tmp_path / "mine").mkdir()
    bare = {
        "event_id": ["x", "y"], "time": pa.array([1, 2], pa.timestamp("ms")), "user_id": ["u4", "u1"],
        "item_id": ["m1", "m3"], "log_propensity": np.log([0.5, 0.5]), "policy": ["p", "p"],
        "policy_version": ["1", "1"], "reward": [0.0, 1.0], "candidates": [["m1", "m2"], ["m3", "m2"]],
    }  # fmt: skip
    pq.write_table(pa.table(bare), tmp_path / "mine" / "events.parquet")
    found = own_vocabulary(tmp_path / "mine", (0, 1))
    assert (found.users["user_id"].tolist(), found.items["item_id"].tolist()) == (["u1", "u4"], ["m1", "m2", "m3"])
    assert ingest_log(tmp_path / "mine", tmp_path / "rounds", config={"evaluation_share": 0}).training == 2
    for column, message in (
        ([1.5, 2.0], "column user_id is of type double; expected ids"),
        (["a", None], "row 2: user_id is missing"),
        (pa.array([2**64 - 1, 1], pa.uint64()), "user_id 18446744073709551615 is above"),
    ):
        pq.write_table(pa.table({**bare, "user_id": column}), tmp_path / "mine" / "events.parquet")
        with pytest.raises(DataError, match=message):
            own_vocabulary(tmp_path / "mine", (0, 1))
    with pytest.raises(DataError, match="no such file"):
        own_vocabulary(tmp_path / "nothing", (0, 1))


def test_an_id_of_another_type_than_that_of_the_policy_is_explained(tmp_path):
    write_log(tmp_path / "log", hand_rounds())
    texts = IdVocabulary(
        pd.DataFrame({"user_id": [*map(str, range(1, 5))]}), pd.DataFrame({"item_id": range(11, 17)}), (1.0, 5.0)
    )
    with pytest.raises(
        DataError, match=r'user_id \d is none of the 4 of the policy or ratings; the ids are text: "\d"'
    ):
        ingest_log(tmp_path / "log", tmp_path / "rounds", texts)
