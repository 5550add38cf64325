"""Vowpal Wabbit's JSON becomes rounds; every fault is named by file and line."""

import json
from typing import Any

import numpy as np
import pytest
from hand_logs import tables

from recpolicy.core.errors import DataError
from recpolicy.data import vowpal_wabbit
from recpolicy.data.log_import import LeftOut
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit


def line(
    action: int = 2, cost: float = -1.0, probability: float = 0.75, user: str = "1", items=("11", "12", "15"), **more
):
    """One line, its actions ranked with the one shown first."""
    ranked = [action, *(one for one in range(1, len(items) + 1) if one != action)]
    rest = (1 - probability) / (len(items) - 1)
    actions = [{"_tag": one, "Item": {"n": {"id": one}}} for one in items]
    return {
        "_label_cost": cost, "_label_probability": probability, "_label_Action": action, "_labelIndex": action - 1,
        "Timestamp": "2026-01-05T00:00:00.5Z", "EventId": f"e{user}-{action}-{len(items)}", "a": ranked,
        "p": [probability] + [rest] * (len(items) - 1),
        "c": {"User": {"id": user, "age": 24}, "_multi": actions},
    } | more  # fmt: skip


def write(path, *records: Any):
    path.write_text(
        "".join(one if isinstance(one, str) else json.dumps(one) + "\n" for one in records), encoding="utf-8"
    )
    return path


def test_what_stands_in_the_file_is_what_was_logged_in_the_order_of_time(tmp_path):
    late = line(1, cost=-0.25, probability=0.5, user="7", Timestamp="2026-01-05T00:00:02Z")
    found = read_vowpal_wabbit(write(tmp_path / "log.json", late, line(2)), user="User.id")
    rounds = found.rounds
    assert found.tables.users["user_id"].tolist() == [1, 7]
    assert found.tables.items["item_id"].tolist() == [11, 12, 15]
    assert rounds.user.tolist() == [0, 1]
    assert rounds.item.tolist() == [1, 0]
    assert rounds.reward.tolist() == [1.0, 0.25]
    np.testing.assert_allclose(rounds.propensity, [0.75, 0.5], rtol=1e-12)
    assert rounds.event_id.tolist() == ["e1-2-3", "e7-1-3"]
    assert np.diff(rounds.time).tolist() == [1500]
    assert rounds.candidates is None  # every round had the whole catalog
    assert rounds.scale == (0.0, 1.0)
    assert found.left_out == LeftOut()
    assert len(found.lost) == 2


def test_candidates_that_change_are_kept(tmp_path):
    records = line(2), line(1, items=("16", "12"), probability=0.5, Timestamp="2026-01-05T00:00:00Z")
    rounds = read_vowpal_wabbit(write(tmp_path / "log.json", *records)).rounds
    assert rounds.action_items.tolist() == [0, 1, 2, 3]  # 11, 12, 15, 16
    assert rounds.item.tolist() == [3, 1]
    np.testing.assert_array_equal(rounds.allowed(slice(0, 2)), [[0, 1, 0, 1], [1, 1, 1, 0]])


def test_pieces_of_a_file_are_put_together(tmp_path, monkeypatch):
    records = [line(1 + number % 3, user=str(number)) for number in range(7)]
    whole = read_vowpal_wabbit(write(tmp_path / "log.json", *records))
    monkeypatch.setattr(vowpal_wabbit, "_LINES", 3)
    assert read_vowpal_wabbit(tmp_path / "log.json").rounds.digest == whole.rounds.digest
    records[6]["_label_cost"] = 9
    with pytest.raises(DataError, match=r"log\.json:7: reward -9 is not in 0\.\.1; give --scale"):
        read_vowpal_wabbit(write(tmp_path / "log.json", *records))


def test_without_names_users_and_items_are_their_features(tmp_path):
    one, other = line(1, items=("11", "12")), line(1, user="2", items=("11", "12"))
    for record in (one, other):
        record["c"]["_multi"] = [{"Item": {"year": 1995, "id": 3}}, {"Item": {"id": 4, "year": 1996}}]
    found = read_vowpal_wabbit(write(tmp_path / "log.json", one, other))
    assert found.tables.users["user_id"].tolist() == ['{"User":{"age":24,"id":"1"}}', '{"User":{"age":24,"id":"2"}}']
    assert found.tables.items["item_id"][0] == '{"Item":{"id":3,"year":1995}}'
    named = read_vowpal_wabbit(tmp_path / "log.json", item="Item.id", user="User.age").rounds
    assert named.item.tolist() == [0, 0]
    assert named.user.tolist() == [0, 0]


def test_with_a_policys_tables_rewards_are_stretched_to_its_scale(tmp_path):
    path = write(tmp_path / "log.json", line(2, cost=1.0, user="4"), line(3, cost=-1.0), line(1, cost=0.0))
    found = read_vowpal_wabbit(path, tables(), (-1.0, 1.0), user="User.id", item="Item.n.id")
    assert found.rounds.reward.tolist() == [1.0, 5.0, 3.0]
    assert found.rounds.item.tolist() == [1, 4, 0]
    assert found.rounds.user.tolist() == [3, 0, 0]
    with pytest.raises(DataError, match=r"log\.json:1: a candidate is not known"):
        read_vowpal_wabbit(write(path, line(2, items=("11", "12", "99"))), tables(), user="User.id")


def test_plain_actions_are_numbers_and_lines_need_no_time_and_no_id(tmp_path):
    record = {
        "_label_cost": 0,
        "_label_probability": 0.4,
        "_label_Action": 3,
        "a": [3, 1, 2],
        "p": [0.4, 0.3, 0.3],
        "x": 1,
    }
    found = read_vowpal_wabbit(write(tmp_path / "log.json", record, {**record, "x": 2}))
    assert found.tables.items["item_id"].tolist() == [1, 2, 3]
    assert found.tables.users["user_id"].tolist() == ['{"x":1}', '{"x":2}']
    assert found.rounds.item.tolist() == [2, 2]
    assert np.diff(found.rounds.time).tolist() == [1000]
    assert len(set(found.rounds.event_id)) == 2


def test_lines_not_to_be_learnt_from_are_left_out_and_counted(tmp_path):
    found = read_vowpal_wabbit(
        write(tmp_path / "log.json", line(1, _skipLearn=True), line(2), line(3, _skipLearn=False))
    )
    assert len(found.rounds) == 2
    assert found.left_out == LeftOut(skipped=1)


def _without(name: str) -> dict[str, Any]:
    return {key: value for key, value in line(1).items() if key != name}


FAULTS = {
    "not JSON": ("{\n", "not JSON \\(column 1: Expecting"),
    "a list": ("[1]\n", "not a JSON object"),
    "no cost": (_without("_label_cost"), "_label_cost is None; expected a number"),
    "cost a truth": (line(1, _label_cost=True), "_label_cost is True; expected a number"),
    "cost NaN": (line(1, _label_cost=float("nan")), "_label_cost is nan; expected a number"),
    "cost off the scale": (line(1, _label_cost=3), r"reward -3 is not in 0\.\.1"),
    "probability 0": (line(1, probability=0.0), r"propensity 0: expected a probability in \(0, 1\]"),
    "probability text": (line(1, _label_probability="x"), "_label_probability is 'x'; expected a number"),
    "action 0": (line(1, _label_Action=0, _labelIndex=None), "_label_Action is 0; expected one of the 3 act"),
    "action beyond": (line(1, _label_Action=4, _labelIndex=None), "_label_Action is 4; expected one of the 3"),
    "no actions": (line(1, c={"User": {}}, a=None), "neither c._multi nor a lists"),
    "p another": (line(1, p=[0.5, 0.25, 0.25]), r"p gives action 1 0\.5, but _label_probability is 0\.75"),
    "p too short": (line(1, p=[1.0]), "a and p are not lists of one length"),
    "action not ranked": (line(1, a=[2, 3, 4]), "_label_Action 1 is not in a"),
    "same item twice": (line(1, items=("11", "12", "11"), p=None), "the shown action is offered 2 times; its prob"),
    "index": (line(1, _labelIndex=3), "_labelIndex is 3; expected one of the 3 actions, from 0"),
    "actions from 0": (line(1, a=[0, 1, 2]), "a counts the actions from 0; expected from 1"),
    "pdrop 1": (line(1, pdrop=1), "pdrop is 1; expected a probability below 1"),
    "pdrop differs": (line(1, pdrop=0.9), r"pdrop is 0\.9, but 0 in earlier lines: .* rounds have no weights"),
    "continuous": ({"_label_ca": {"cost": 1}, "c": {}}, "a log of continuous actions"),
    "label text": (line(1, _label="1:x:0.5", _labelIndex=None), "_label is '1:x:0.5'; expected action:cost:prob"),
    "action a number": (line(1, c={"_multi": [1, 2]}, p=None), "an action is 1; expected an object"),
    "context a list": (line(1, c=[]), r"c is \[\]; expected an object"),
    "time": (line(1, Timestamp="noon"), "Timestamp 'noon': expected such as 2026-01-05T12:00:00Z"),
    "time missing": (_without("Timestamp"), "some lines have a Timestamp, and some have none"),
    "event twice": (line(2), "event 'e1-2-3' occurs twice"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_by_file_and_line(tmp_path, fault):
    record, message = FAULTS[fault]
    with pytest.raises(DataError, match=r"log\.json:2: " + message) as raised:
        read_vowpal_wabbit(write(tmp_path / "log.json", line(2), record))
    assert "\n" not in str(raised.value)


def test_a_name_that_is_not_among_the_features_is_refused(tmp_path):
    path = write(tmp_path / "log.json", line(2))
    with pytest.raises(DataError, match=r"log\.json:1: no User\.name among the features User$"):
        read_vowpal_wabbit(path, user="User.name")
    with pytest.raises(DataError, match=r"log\.json:1: no Item among the features _tag, Item"):
        read_vowpal_wabbit(path, item="Item")


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: no such file"):
        read_vowpal_wabbit(tmp_path / "none.json")
    (tmp_path / "log.json").write_bytes(b"\xff\xfe")
    with pytest.raises(DataError, match=r"log\.json: not UTF-8 text"):
        read_vowpal_wabbit(tmp_path / "log.json")
    with pytest.raises(DataError, match=r"log\.json: no rounds"):
        read_vowpal_wabbit(write(tmp_path / "log.json"))
