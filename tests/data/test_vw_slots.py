"""Lines of several slots (CCB and slates) become slates, and rounds with exact candidates and propensities."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hand_logs import tables

from recpolicy.core.errors import DataError
from recpolicy.data.feature_import import read_vowpal_wabbit_features
from recpolicy.data.log_import import Imported, LeftOut
from recpolicy.data.log_ingest import IngestConfig
from recpolicy.data.slate_log_files import SLATES, read_slates, write_slates
from recpolicy.data.slate_rounds import rounds_from_slates
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit
from recpolicy.workflows.feature_logs import import_feature_log, ingest_feature_log
from recpolicy.workflows.imported_logs import import_log, log_vocabulary
from recpolicy.workflows.interaction_logs import ingest_log


def outcome(actions: list[int], chances: list[float], cost: float | None = None, **more: Any) -> dict[str, Any]:
    """One entry of `_outcomes`, the shown action first."""
    return {"_a": actions, "_p": chances, **({} if cost is None else {"_label_cost": cost}), **more}


def ccb(*outcomes: dict[str, Any], items: tuple[str, ...] = ("a", "b", "c"), user: str = "ann", **more: Any) -> Any:
    """A line of CCB; by default slot 0 shows c with .5, slot 1 shows a with .25 and earns 1."""
    outcomes = outcomes or (outcome([2, 0, 1], [0.5, 0.25, 0.25], 0.0), outcome([0, 1], [0.25, 0.75], -1.0))
    return {
        "EventId": "e0", "Timestamp": "2026-01-05T00:00:00Z",
        "c": {
            "FromUrl": [{"name": user}], "_multi": [{"_tag": item, "j": [{"sku": f"s-{item}"}]} for item in items],
            "_slots": [{"_id": f"s{number}", "size": number + 1} for number in range(len(outcomes))],
        },
        "_outcomes": list(outcomes), "VWState": {"m": "N/A"},
    } | more  # fmt: skip


def slates(*outcomes: dict[str, Any], shelves=(("a", "b", "c"), ("x", "y")), cost: float = -0.5, **more: Any) -> Any:
    """A line of slates; by default slot 0 shows b with .5, slot 1 shows x with .75, and the line earns .5."""
    outcomes = outcomes or (outcome([1, 0, 2], [0.5, 0.25, 0.25]), outcome([0, 1], [0.75, 0.25]))
    return {
        "_label_cost": cost, "EventId": "e0", "Timestamp": "2026-01-05T00:00:00Z",
        "c": {
            "u": 1, "_multi": [{"_slot_id": slot, "_tag": item} for slot, of in enumerate(shelves) for item in of],
            "_slots": [{} for _ in outcomes],
        },
        "_outcomes": list(outcomes),
    } | more  # fmt: skip


def write(path: Path, *records: Any) -> Path:
    text = "".join(record if isinstance(record, str) else json.dumps(record) + "\n" for record in records)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text, encoding="utf-8")
    return path


def several(count: int = 6) -> list[Any]:
    """Lines of CCB whose actions change."""
    rng = np.random.default_rng(3)
    records = []
    for number in range(count):
        items = tuple(rng.permutation(list("abcde"))[: rng.integers(3, 6)])
        order = [int(place) for place in rng.permutation(len(items))]
        first = outcome(order, [1 / len(items)] * len(items), -float(number % 2))
        second = outcome(order[1:], [1 / (len(items) - 1)] * (len(items) - 1), -0.5)
        time = f"2026-01-05T00:00:{number // 2:02d}Z"
        records.append(ccb(first, second, items=items, user=f"u{number % 3}", EventId=f"e{number}", Timestamp=time))
    return records


def ids(found: Imported, rows: Any) -> list[Any]:
    return found.tables.items["item_id"].to_numpy()[rows].tolist()


def offered(found: Imported, row: int) -> list[Any]:
    mask = found.rounds.allowed(slice(row, row + 1))
    items = found.rounds.action_items
    return ids(found, items if mask is None else items[mask[0]])


@pytest.mark.parametrize("name", ["log.json", "log.json.gz"])
def test_a_line_of_ccb_is_a_slate_with_the_propensity_of_each_slot_given_those_before(tmp_path, name):
    found = read_vowpal_wabbit(write(tmp_path / name, ccb()), user="FromUrl.name")
    log = found.slates
    assert log is not None
    assert (found.slots, len(log), log.unit) == (2, 1, None)
    assert ids(found, log.slate[0]) == ["c", "a"]
    np.testing.assert_allclose(np.exp(log.log_propensity), [[0.5, 0.25]])
    assert log.slot_reward is not None
    assert (log.reward.tolist(), log.slot_reward.tolist()) == ([1.0], [[0.0, 1.0]])
    assert (log.scale, log.slot_scale, log.shelves, log.candidates) == ((0.0, 2.0), (0.0, 1.0), None, None)
    assert log.event_id.tolist() == ["e0"]
    assert found.rounds.event_id.tolist() == ["e0:0", "e0:1"]
    assert [offered(found, row) for row in (0, 1)] == [["a", "b", "c"], ["a", "b"]]


def test_a_line_of_slates_is_a_slate_of_shelves_with_one_reward(tmp_path):
    found = read_vowpal_wabbit(write(tmp_path / "log.json", slates()))
    log = found.slates
    assert log is not None
    assert ids(found, log.slate[0]) == ["b", "x"]
    assert log.shelves is not None
    assert log.shelves.tolist() == [0, 0, 0, 1, 1]
    assert (log.reward.tolist(), log.slot_reward, log.candidates) == ([0.5], None, None)
    np.testing.assert_allclose(np.exp(log.log_propensity), [[0.5, 0.75]])
    assert found.rounds.reward.tolist() == [0.5, 0.5]
    assert [offered(found, row) for row in (0, 1)] == [["a", "b", "c"], ["x", "y"]]


def test_slates_and_rounds_of_one_log_say_the_same(tmp_path):
    found = read_vowpal_wabbit(write(tmp_path / "log.json", *several()))
    assert found.slates is not None
    assert found.slates.candidates is not None
    assert rounds_from_slates(found.slates, (0.0, 1.0)).digest == found.rounds.digest
    # some lines offer 3 items, and some 4 or 5
    assert len({len(offered(found, row)) for row in range(0, 12, 2)}) > 1
    short = slates(outcome([1, 0], [0.5, 0.5]), outcome([0], [1.0]), shelves=(("a", "c"), ("y",)), EventId="e1")
    found = read_vowpal_wabbit(write(tmp_path / "slates.json", slates(), short))
    assert found.slates is not None
    assert found.slates.candidates is not None
    rounds = rounds_from_slates(found.slates, (0.0, 1.0))
    assert rounds.digest == found.rounds.digest
    assert [offered(found, row) for row in range(4)] == [["a", "b", "c"], ["x", "y"], ["a", "c"], ["y"]]


def test_candidates_of_slates_survive_the_file(tmp_path):
    found = read_vowpal_wabbit(write(tmp_path / "log.json", *several()))
    assert found.slates is not None
    write_slates(tmp_path / SLATES, found.slates, found.tables)
    read = read_slates(tmp_path / SLATES, found.tables)
    assert (read.digest, read.unit, read.slot_scale) == (found.slates.digest, "slate", (0.0, 1.0))
    assert read.digest != replace(read, candidates=None).digest
    first = int(np.argmin(read.candidates.mask(slice(0, 6)).sum(axis=1)))  # type: ignore[union-attr]
    mask = read.candidates.mask(slice(first, first + 1))[0]  # type: ignore[union-attr]
    strange = read.slate.copy()
    strange[first, 0] = read.action_items[~mask][0]
    with pytest.raises(DataError, match="an item that is not among the candidates of the slate"):
        replace(read, slate=strange)


def test_slots_of_a_line_stay_together_as_one_independent_part(tmp_path):
    found = read_vowpal_wabbit(write(tmp_path / "log.json", *several()))
    assert found.rounds.unit == "slate"
    assert found.rounds.units.tolist() == np.repeat(np.arange(6), 2).tolist()
    assert found.slates is not None
    assert found.slates.units.tolist() == list(range(6))
    by_user = read_vowpal_wabbit(tmp_path / "log.json", user="FromUrl.name")
    assert by_user.rounds.unit is None
    assert len(set(by_user.rounds.units.tolist())) == 3


def test_lines_with_other_numbers_of_slots_or_own_lists_of_actions_become_rounds(tmp_path):
    one = ccb(outcome([1, 0, 2], [0.5, 0.25, 0.25], -1.0), EventId="e1")
    found = read_vowpal_wabbit(write(tmp_path / "log.json", ccb(), one))
    assert found.slates is None
    assert found.rounds.event_id.tolist() == ["e0:0", "e0:1", "e1:0"]
    assert found.rounds.units.tolist() == [0, 0, 1]
    listed = ccb(outcome([2, 0], [0.5, 0.5], 0.0), outcome([1], [1.0], -1.0))
    listed["c"]["_slots"][0]["_inc"], listed["c"]["_slots"][1]["_inc"] = [0, 2], [1, 2]
    found = read_vowpal_wabbit(write(tmp_path / "log.json", listed))
    assert found.slates is None
    assert [offered(found, row) for row in (0, 1)] == [["a", "c"], ["b"]]
    with pytest.raises(DataError, match=r"lines of slates have 1 to 2 slots; a slate log has one number of slots"):
        read_vowpal_wabbit(
            write(tmp_path / "log.json", slates(), slates(outcome([0], [1.0]), shelves=(("a",),), EventId="e1"))
        )


def test_with_a_policys_tables_rewards_of_slots_are_stretched(tmp_path):
    path = write(tmp_path / "log.json", ccb(items=("11", "12", "15"), user="4"))
    log = read_vowpal_wabbit(path, tables(), (0.0, 1.0), user="FromUrl.name").slates
    assert log is not None
    assert log.slot_reward is not None
    assert (log.slot_reward.tolist(), log.slot_scale, log.scale) == ([[1.0, 5.0]], (1.0, 5.0), (2.0, 10.0))


def test_lines_that_are_no_events_are_left_out(tmp_path):
    unlabeled = {key: value for key, value in ccb().items() if key != "_outcomes"}
    reward = {"RewardValue": 1, "EventId": "e0"}
    records = [ccb(_skipLearn=True, EventId="e1"), "\n", unlabeled, ccb(), reward, "{cut\n"]
    found = read_vowpal_wabbit(write(tmp_path / "log.json", *records), skip_damaged=True)
    assert found.left_out == LeftOut(skipped=1, dangling=2, damaged=1)
    assert len(found.rounds) == 2


def test_the_same_dropped_share_is_named_and_another_one_refused(tmp_path):
    found = read_vowpal_wabbit(write(tmp_path / "log.json", ccb(pdrop=0.9), ccb(pdrop=0.9, EventId="e1")))
    assert any("pdrop 0.9" in lost for lost in found.lost)
    path = write(tmp_path / "log.json", ccb(pdrop=0.9), ccb(EventId="e1"))
    with pytest.raises(DataError, match=r"log\.json:2: pdrop is 0, but 0\.9 in earlier lines.*--keep-features"):
        read_vowpal_wabbit(path)
    weight = read_vowpal_wabbit_features(path).log.weight
    np.testing.assert_allclose(weight, [10, 10, 1, 1])


def _slot(number: int, **more: Any) -> Any:
    record = ccb()
    record["_outcomes"][number] |= more
    return record


def _listed() -> Any:
    record = ccb()
    record["c"]["_slots"][0]["_inc"] = [0, 1]
    return record


FAULTS = {
    "outcome missing": (ccb(_outcomes=[outcome([2], [0.5], 0.0)]), "_outcomes has 1 entries for 2 slots"),
    "no outcomes": (ccb(_outcomes=None), "_outcomes has no entries for 2 slots"),
    "slots missing": (ccb(c={"_multi": [{"_tag": "a"}]}), r"c\._slots is None; expected a list of the slots"),
    "slots empty": (ccb(c={"_multi": [{"_tag": "a"}], "_slots": []}), r"c\._slots is \[\]; expected a list"),
    "slot a number": (ccb(_outcomes=[1, 2]), "slot 0: expected an object in _slots and in _outcomes"),
    "another slot": (_slot(1, _id="s7"), "slot 1 is 's1', but its outcome is of slot 's7'"),
    "no cost": (_slot(1, _label_cost=None), "slot 1: _label_cost is None; expected a number"),
    "shown twice": (_slot(1, _a=[2, 1]), "slot 1: it shows action 2, which slot 0 shows already"),
    "taken action listed": (_slot(1, _a=[0, 2]), "slot 1: _p has a probability of action 2, which slot 0 shows"),
    "sum below 1": (_slot(0, _p=[0.5, 0.25, 0.15]), r"slot 0: the probabilities of _p sum to 0\.9; expected 1"),
    "sum above 1": (_slot(1, _p=[0.5, 0.75]), r"slot 1: the probabilities of _p sum to 1\.25; expected 1"),
    "p too short": (_slot(0, _p=[0.5, 0.5]), "slot 0: _a has 3 actions and _p 2 probabilities"),
    "p missing": (_slot(0, _p=None), "slot 0: _p is None; expected a list"),
    "a missing": (_slot(0, _a=[]), r"slot 0: _a is \[\]; expected a list, the shown action first"),
    "action beyond": (_slot(0, _a=[3, 0, 1]), "slot 0: _a has 3; expected one of the 3 actions, from 0"),
    "action a text": (_slot(0, _a=["a", 0, 1]), "slot 0: _a has 'a'; expected one of the 3 actions"),
    "action listed twice": (_slot(0, _a=[2, 0, 0]), r"slot 0: _a has an action twice: \[2, 0, 0\]"),
    "probability 0": (_slot(0, _p=[0.0, 0.5, 0.5]), r"propensity 0: expected a probability in \(0, 1\]"),
    "probability text": (_slot(0, _p=[0.5, "x", 0.25]), "slot 0: a value of _p is 'x'; expected a number"),
    "reward off the scale": (_slot(0, _label_cost=3), r"reward -3 is not in 0\.\.1; give --scale"),
    "same item twice": (ccb(items=("a", "a", "c")), "action 'a' is offered twice; actions of slots need ids"),
    "not included": (_listed(), "slot 0: it shows action 2, which is not in its _inc"),
    "one choice": (
        {"_label_cost": 0, "_label_probability": 1, "_label_Action": 1, "Timestamp": "2026-01-05", "a": [1]},
        r"a line of one choice a line in a log of slots \(CCB\); import them apart",
    ),
    "slates in CCB": (slates(), r"a line of slates in a log of slots \(CCB\); import them apart"),
    "slot id missing": (
        slates(c={"_multi": [{"_slot_id": 0, "_tag": "a"}, {"_tag": "b"}], "_slots": [{}]}),
        "_slot_id of an action is None; expected the number of its slot, from 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_named_by_file_and_line(tmp_path, fault):
    record, message = FAULTS[fault]
    path = write(tmp_path / "log.json", ccb(EventId="first"), record)
    with pytest.raises(DataError, match=rf"log\.json:2: {message}"):
        read_vowpal_wabbit(path)


def test_slates_need_one_slot_for_each_action_and_a_cost(tmp_path):
    moved = slates(outcome([0], [1.0]), outcome([0], [1.0]), shelves=(("x",), ("a",)), EventId="e1")
    path = write(tmp_path / "log.json", slates(), moved)
    with pytest.raises(DataError, match=r"log\.json:2: action 'x' is of slot 0, but of slot 1 before"):
        read_vowpal_wabbit(path)
    record = slates()
    del record["_label_cost"]
    with pytest.raises(DataError, match=r"log\.json:1: _label_cost is None; expected a number"):
        read_vowpal_wabbit(write(path, record))
    single = slates(outcome(1, 0.5), outcome(0, 0.75))  # type: ignore[arg-type]  # a number where a list may stand
    assert (
        read_vowpal_wabbit(write(path, single)).rounds.digest == read_vowpal_wabbit(write(path, slates())).rounds.digest
    )


def test_lines_without_ids_keep_their_event_when_a_part_is_imported_alone(tmp_path):
    records = [{key: value for key, value in record.items() if key != "EventId"} for record in several()]
    whole = read_vowpal_wabbit(write(tmp_path / "log.json", *records, records[0])).rounds
    part = read_vowpal_wabbit(write(tmp_path / "part.json", *records[3:])).rounds
    assert len(set(whole.event_id)) == 14
    assert set(part.event_id) < set(whole.event_id)


CCB_TEXT = """ccb shared |FromUrl name=ann
ccb action 'a |j sku=s-a
ccb action b|j sku=s-b
ccb action 'c |j sku=s-c
ccb slot 2:0:0.5,0:0.25,1:0.25 | size:1
ccb slot 0:-1:0.25,1:0.75 | size:2

"""
SLATES_TEXT = """slates shared -0.5 | u
slates action 0 'a |
slates action 0 'b |
slates action 0 'c |
slates action 1 'x |
slates action 1 'y |
slates slot 1:0.5,0:0.25,2:0.25 |
slates slot 0:0.75 |
"""


@pytest.mark.parametrize(("text", "record"), [(CCB_TEXT, ccb()), (SLATES_TEXT, slates())])
def test_text_says_the_same_as_json(tmp_path, text, record):
    of_text = read_vowpal_wabbit(write(tmp_path / "log.txt", f"\n{text}\n{text}")).slates
    of_json = read_vowpal_wabbit(write(tmp_path / "log.json", record)).slates
    assert of_text is not None
    assert of_json is not None
    assert len(of_text) == 2
    for name in ("slate", "log_propensity", "reward", "slot_reward", "shelves"):
        expected, value = getattr(of_json, name), getattr(of_text, name)
        np.testing.assert_array_equal(value[:1] if name != "shelves" and value is not None else value, expected)


def test_text_of_one_choice_is_read(tmp_path):
    text = (
        "shared |User name=ann age:24\n|Item id=a\n0:-1:0.25 'tag |Item id=b hot new |Extra x:-1e3\n| id=c id=d\n\n"
        "0:0:1 | id=a\n"
    )
    decisions = read_vowpal_wabbit_features(write(tmp_path / "log.dat", text))
    log = decisions.log
    assert log.chosen.tolist() == [1, 0]
    np.testing.assert_allclose(log.propensity, [0.25, 1.0])
    assert log.reward.tolist() == [1.0, 0.0]
    assert log.context["User"].tolist() == [{"name": "ann", "age": 24.0}, None]
    assert log.actions["Item"].tolist()[1] == {"id": "b", "hot": 1, "new": 1}
    assert log.actions["Extra"].tolist()[1] == {"x": -1000.0}
    assert log.actions["id"].tolist()[2:] == [["c", "d"], "a"]
    assert log.action_id[1] == "tag"


TEXT_FAULTS = {
    "no bar": ("ccb shared | a\nccb action\n", r"log\.txt:2: no \| before the features: 'ccb action'"),
    "two labels": ("1:2:0.4 | a\n2:1:0.5 | b\n", r"log\.txt:1: line 2 has a label, too: expected one label"),
    "no blank line": (
        "ccb shared | a\nccb shared | b\n",
        r"log\.txt:1: line 2 begins another example; expected a blank",
    ),
    "no blank line in cb": ("shared | a\n0:1:1 | b\nshared | a\n", r"log\.txt:1: line 3 begins another example"),
    "other type": (
        "ccb shared | a\nshared | b\n\n",
        r"log\.txt:1: line 2 begins 'shared'; expected ccb shared, action",
    ),
    "label": (
        "ccb shared | a\nccb action | b\nccb slot 0:1:0.5:1 | c\n",
        r"line 3: label '0:1:0\.5:1'; expected action:co",
    ),
    "number": ("slates shared x | a\n", r"log\.txt:1: line 1: 'x' in its label; expected a number"),
    "no slot id": ("slates shared 1 | a\nslates action | b\n", r"line 2: '' in its label; expected a number"),
    "feature": ("shared | a:b\n0:1:1 | c\n", r"log\.txt:1: feature 'a:b': expected name:number, name=text or a name"),
    "weight": ("shared |n:2 a\n0:1:1 | c\n", r"namespace 'n:2' has a weight"),
    "a slot without label": (
        "ccb shared | a\nccb action | b\nccb action | c\nccb slot 0:1:0.5 | d\nccb slot | e\n",
        r"log\.txt:1: slot 1: _a is None; expected a list",
    ),
}


@pytest.mark.parametrize("fault", TEXT_FAULTS)
def test_every_fault_of_text_is_named_by_file_and_line(tmp_path, fault):
    text, message = TEXT_FAULTS[fault]
    with pytest.raises(DataError, match=message):
        read_vowpal_wabbit(write(tmp_path / "log.txt", text), scale=(-2, 2))


def test_with_features_each_slot_is_a_round_that_offers_what_is_left(tmp_path):
    path = write(tmp_path / "log.json", ccb(), ccb(EventId="e1"))
    found = read_vowpal_wabbit_features(path)
    log = found.log
    assert (found.slots, found.named) == (2, False)
    assert log.event_id.tolist() == ["e0:0", "e0:1", "e1:0", "e1:1"]
    assert [log.action_id[log.offered[log.start[row] : log.start[row + 1]]].tolist() for row in (0, 1)] == [
        ["a", "b", "c"], ["a", "b"],
    ]  # fmt: skip
    assert log.action_id[log.chosen_action].tolist() == ["c", "a"] * 2
    np.testing.assert_allclose(log.propensity, [0.5, 0.25] * 2)
    assert log.reward.tolist() == [0.0, 1.0] * 2
    assert log.context["slot"].tolist()[:2] == [
        {"size": 1, "id": "s0", "position": 0},
        {"size": 2, "id": "s1", "position": 1},
    ]
    assert log.units.tolist() == [0, 0, 1, 1]  # the slots of a line are one part
    assert read_vowpal_wabbit_features(path, user="FromUrl.name").log.units.tolist() == [0, 0, 0, 0]
    whole = read_vowpal_wabbit_features(write(tmp_path / "slates.json", slates())).log
    assert whole.reward.tolist() == [0.5, 0.5]
    assert "_slot_id" not in whole.actions
    own = ccb()
    own["c"]["slot"] = 3
    with pytest.raises(DataError, match=r"log\.json:1: the shared features have 'slot'"):
        read_vowpal_wabbit_features(write(path, own))


def test_an_import_of_slots_is_ingested(tmp_path):
    report = import_log(write(tmp_path / "log.json", *several(40)), tmp_path / "log", "vw")
    assert (report.slates, report.slots, report.rounds, report.unit) == (40, 2, 80, "slate")
    assert sorted(path.name for path in (tmp_path / "log").iterdir()) == [
        "import.json", "items.parquet", SLATES, "users.parquet",
    ]  # fmt: skip
    ingested = ingest_log(tmp_path / "log", tmp_path / "rounds", None, IngestConfig(evaluation_share=0.25))
    assert (ingested.training, ingested.evaluation) == (60, 20)
    assert log_vocabulary(tmp_path / "log").scale == (0.0, 1.0)
    varied = [*several(40), ccb(outcome([1, 0, 2], [0.5, 0.25, 0.25], -1.0), EventId="last")]
    report = import_log(write(tmp_path / "log.json", *varied), tmp_path / "varied", "vw")
    assert (report.slates, report.slots, report.rounds) == (0, 2, 81)
    ingested = ingest_log(tmp_path / "varied", tmp_path / "varied-rounds", None, {"unit": "round"})
    assert ingested.events == 81
    import_feature_log(write(tmp_path / "log.json", *varied), tmp_path / "features", "vw")
    assert ingest_feature_log(tmp_path / "features", tmp_path / "feature-rounds").events == 81
