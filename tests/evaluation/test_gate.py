"""The gate over evaluations made by hand: every criterion can fail alone."""

import copy
import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.gate import Criterion, GateConfig, gate

GROUPS = {
    "gender F": {"value": 0.1, "lo": -0.3, "hi": 0.5, "users": 30},
    "gender M": {"value": 0.2, "lo": 0.1, "hi": 0.3, "users": 60},
}
GOOD = {
    "policy": {"agent": "linucb", "policy_digest": "abc"},
    "inputs": {"candidate": "abc", "rounds": "def"},
    "actions": {"diversity": 0.03, "distinct": 110, "modal_share": 0.12, "actions": 1682, "over": "logged rounds"},
    "latency": {"median_ms": 1.0, "p99_ms": 4.0, "calls": 200},
    "held_out": {
        "gain": {"most_popular": {"value": 0.4, "lo": 0.3, "hi": 0.5}}, "coverage": 0.3,
        "calibration": {"bias": -0.08, "error": 0.09}, "group_gain": {"baseline": "most_popular", "groups": GROUPS},
    },
    "off_policy": {
        "baseline": "incumbent 1234", "effective_sample_size": 500.0, "mean_weight_z": 1.0, "tail_index": 0.3,
        "gain": {"t": {"value": 0.1, "lo": 0.05, "hi": 0.15}, "sequence": {"value": 0.1, "lo": -0.01, "hi": 0.21}},
        "relative_gain": {"t": {"value": 0.08, "lo": 0.06, "hi": 0.1}, "sequence": {"value": 0.1, "lo": 0.01, "hi": 1}},
        "gain_on_hits": 0.07,
        "mean_reward": {"t": {"value": 0.4, "lo": 0.35, "hi": 0.45}, "sequence": {"value": 0.4, "lo": 0.2, "hi": 0.6}},
        "group_gain": {"baseline": "incumbent 1234", "groups": copy.deepcopy(GROUPS)},
    },
}  # fmt: skip

SESSIONS = {
    "baseline": "the greedy rating model", "world": "item_knn", "reward": {"value": 14.0, "lo": 13.8, "hi": 14.2},
    "gain": {"value": 0.5, "lo": 0.3, "hi": 0.7}, "length": 17.0, "users": 471, "sessions": 1884,
    "group_gain": {"baseline": "the greedy rating model", "groups": copy.deepcopy(GROUPS)},
}  # fmt: skip

LIMITS = [one.name for one in fields(GateConfig) if one.name != "interval" and not one.name.startswith("session")]


def changed(path, value):
    body = copy.deepcopy(GOOD)
    place = body
    for word in path[:-1]:
        place = place[word]
    place[path[-1]] = value
    return body


def test_policy_within_all_limits_passes():
    found = gate(GOOD)
    assert found.verdict == "pass"
    assert found.reasons == ()
    assert len(found.criteria) == 13


def test_a_gate_is_shown_whole(capsys):
    found = gate(GOOD, GateConfig(margin=100.0))
    found.show()
    shown = capsys.readouterr().out
    assert all(criterion.name in shown for criterion in found.criteria)
    assert found.reasons[0] in shown
    assert shown.endswith("\n\nFAIL\n")


@pytest.mark.parametrize(
    ("path", "value", "criterion"),
    [
        (("off_policy", "gain", "t", "lo"), -0.001, "gain over incumbent 1234"),
        (("off_policy", "gain", "t", "lo"), 0.0, "gain over incumbent 1234"),  # as good as the incumbent is not better
        (("off_policy", "gain", "t", "lo"), float("nan"), "gain over incumbent 1234"),
        (("held_out", "gain", "most_popular", "lo"), 0.0, "held-out gain over most popular"),
        (("held_out", "coverage"), 0.009, "coverage"),
        (("off_policy", "relative_gain", "t", "lo"), 0.0, "relative gain over the logging policy"),
        (("off_policy", "relative_gain"), None, "relative gain over the logging policy"),  # a mean reward of 0 or less
        (("off_policy", "group_gain", "groups", "gender M", "hi"), -0.11, "gain of the worst group on the log"),
        (("held_out", "group_gain", "groups", "gender F", "hi"), -0.11, "gain of the worst group on held-out ratings"),
        (("held_out", "group_gain"), None, "gain of the worst group on held-out ratings"),
        (("held_out", "calibration", "bias"), -0.21, "bias of rating estimates"),
        (("held_out", "calibration", "bias"), 0.21, "bias of rating estimates"),
        (("held_out", "calibration", "error"), 0.26, "calibration error"),
        (("actions", "diversity"), 0.01, "diversity of best items"),
        (("actions", "diversity"), None, "diversity of best items"),
        (("latency", "p99_ms"), 251.0, "latency"),
    ],
)
def test_each_criterion_alone_fails_the_policy(path, value, criterion):
    found = gate(changed(path, value))
    assert found.verdict == "fail"
    assert [one.startswith(criterion) for one in found.reasons] == [True]


def test_too_little_log_is_no_verdict_whatever_the_gain():
    assert gate(changed(("off_policy", "effective_sample_size"), 49.9)).verdict == "no_verdict"
    assert gate(changed(("off_policy", "effective_sample_size"), 50.0)).verdict == "pass"


@pytest.mark.parametrize(("figure", "value"), [("mean_weight_z", 3.1), ("tail_index", 0.71), ("tail_index", None)])
def test_weights_that_allow_no_verdict_are_no_verdict(figure, value):
    assert gate(changed(("off_policy", figure), value)).verdict == "no_verdict"


def test_the_sequence_decides_where_the_log_is_looked_at_repeatedly():
    assert gate(GOOD, GateConfig(interval="sequence")).verdict == "fail"
    assert (
        gate(changed(("off_policy", "gain", "sequence", "lo"), 0.001), GateConfig(interval="sequence")).verdict
        == "pass"
    )


def test_a_gain_does_not_make_up_for_a_mean_reward_below_the_floor():
    """The lower ends are 0.35 (t) and 0.2 (sequence)."""
    assert gate(GOOD, GateConfig(min_mean_reward=0.35)).verdict == "pass"
    below = gate(GOOD, GateConfig(min_mean_reward=0.36))
    assert below.verdict == "fail"
    assert below.reasons == ("mean reward, lower bound: 0.35; expected ≥ 0.36",)
    looked_at = changed(("off_policy", "gain", "sequence", "lo"), 0.001)
    assert gate(looked_at, GateConfig(min_mean_reward=0.2, interval="sequence")).verdict == "pass"
    assert gate(looked_at, GateConfig(min_mean_reward=0.21, interval="sequence")).verdict == "fail"


def test_an_evaluation_without_the_mean_reward_does_not_keep_a_floor():
    """Evaluations that were written before there was a floor lack the figure."""
    body = copy.deepcopy(GOOD)
    del body["off_policy"]["mean_reward"]
    assert gate(body).verdict == "pass"
    assert gate(body, GateConfig(min_mean_reward=-10.0)).verdict == "fail"


def test_limits_can_be_moved():
    assert gate(GOOD, GateConfig(margin=0.05)).verdict == "fail"
    assert gate(GOOD, GateConfig(margin=0.049)).verdict == "pass"


@pytest.mark.parametrize(("part", "criteria"), [("held_out", 8), ("off_policy", 7)])
def test_either_kind_of_figures_is_enough(part, criteria):
    body = {key: value for key, value in GOOD.items() if key != part}
    assert len(gate(body).criteria) == criteria


@pytest.mark.parametrize("name", [name for name in LIMITS if not name.startswith("return")])
def test_each_limit_can_be_switched_off(name):
    every = {one.name: one.name for one in gate(GOOD, GateConfig(min_mean_reward=0.3)).criteria}
    left = {one.name for one in gate(GOOD, GateConfig(**{"min_mean_reward": 0.3, name: None})).criteria}
    assert len(every) - len(left) == (2 if name == "group_loss" else 1)  # groups are asked on the log and held out


def test_switched_off_criterion_stops_nothing():
    found = gate(changed(("actions", "diversity"), 0.0006), GateConfig(min_diversity=None))
    assert found.verdict == "pass"
    assert found.as_dict()["config"]["min_diversity"] is None


def test_without_a_minimum_size_even_a_small_log_gives_a_verdict():
    few = changed(("off_policy", "effective_sample_size"), 3.0)
    assert gate(few, GateConfig(min_effective_sample_size=None)).verdict == "pass"


def test_gate_with_every_criterion_off_is_refused():
    with pytest.raises(ConfigError, match="all criteria are switched off"):
        gate(GOOD, replace(GateConfig(), **{one.name: None for one in fields(GateConfig) if one.name in LIMITS}))


def test_group_is_harmed_only_when_its_whole_interval_says_so():
    """The lower end of a small group is far below the limit; that alone shows no harm."""
    found = gate(GOOD, GateConfig(group_loss=0.0))
    assert found.verdict == "pass"
    worst = [one for one in found.criteria if "worst group" in one.name]
    assert [one.value for one in worst] == [0.3, 0.3]
    assert "on the log over incumbent 1234 (gender M)" in worst[0].name
    assert "on held-out ratings over most popular (gender M)" in worst[1].name


def test_log_of_too_few_users_for_groups_is_not_asked_about_them():
    found = gate(changed(("off_policy", "group_gain", "groups"), {}))
    assert found.verdict == "pass"
    assert len(found.criteria) == 12


def test_record_tells_the_inputs_and_the_figures_without_a_limit():
    plain = gate(GOOD).as_dict()
    assert plain["inputs"] == {"candidate": "abc", "rounds": "def"}
    assert plain["figures"]["items that are the best of some user or round"] == 110
    assert plain["figures"]["share of the most frequent best item"] == 0.12
    assert plain["figures"]["gain on hits"] == 0.07
    logged = GOOD["off_policy"]
    assert plain["predicted_gain"]["off_policy"] == {
        **logged["gain"]["t"], "baseline": logged["baseline"], "unit": "round",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["margin", "relative_gain", "held_out_margin", "min_mean_reward"])
def test_gains_may_be_asked_to_be_a_small_loss(name):
    assert getattr(GateConfig(**{name: -5.0}), name) == -5
    with pytest.raises(ConfigError, match=name):
        GateConfig(**{name: float("nan")})


def test_no_figures_at_all_is_an_error():
    with pytest.raises(DataError, match="no figures of held-out ratings, logged rounds or sessions"):
        gate({"policy": {}})


SIGNED = {"margin", "relative_gain", "held_out_margin", "session_margin", "min_mean_reward", "session_min_mean_reward"}
UNSIGNED = {one.name for one in fields(GateConfig)} - SIGNED


@pytest.mark.parametrize("name", sorted(UNSIGNED))
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_limits_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        GateConfig(**{name: value})


def test_record_is_json_and_the_table_names_what_was_not_kept():
    found = gate(changed(("off_policy", "gain", "t", "lo"), float("nan")))
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["criteria"][0]["value"] is None
    assert plain["verdict"] == "fail"
    assert found.table()["result"].tolist() == ["NOT KEPT", *["kept"] * 12]
    assert found.table()["limit"].iloc[0] == "> 0"


@pytest.mark.parametrize(
    ("value", "at_least", "strict", "kept"),
    [(1.0, True, False, True), (1.0, True, True, False), (1.0, False, True, False), (0.9, False, True, True)],
)
def test_strict_limit_must_be_passed(value, at_least, strict, kept):
    assert Criterion("x", value, 1.0, at_least, strict).passed is kept


@pytest.mark.parametrize("name", LIMITS)
def test_page_of_the_gate_has_every_limit_with_its_default(name):
    page = (Path(__file__).parents[2] / "docs" / "explanation" / "gate.md").read_text()
    default = getattr(GateConfig(), name)
    assert f"\n| `{name}` | {'off' if default is None else f'{default:g}'} | " in page


def test_a_policy_of_sessions_is_gated_in_sessions():
    body = {**{key: part for key, part in GOOD.items() if key != "off_policy"}, "sessions": SESSIONS}
    assert gate(body).verdict == "pass"
    worse = copy.deepcopy(body)
    worse["sessions"]["gain"]["lo"] = 0.0  # as good as the incumbent is not better
    assert gate(worse).verdict == "fail"
    assert "per simulated session" in gate(worse).reasons[0]
    assert gate(body, GateConfig(session_min_mean_reward=13.8)).verdict == "pass"
    assert gate(body, GateConfig(session_min_mean_reward=13.9)).verdict == "fail"
    few = copy.deepcopy(body)
    few["sessions"]["users"] = 49
    assert gate(few).verdict == "no_verdict"
    harmful = copy.deepcopy(body)
    harmful["sessions"]["group_gain"]["groups"]["gender F"] = {"value": -0.9, "lo": -1.2, "hi": -0.6, "users": 30}
    assert gate(harmful).verdict == "fail"
    assert gate(harmful, GateConfig(session_group_loss=None)).verdict == "pass"
