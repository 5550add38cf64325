"""The gate over judgements made by hand: every criterion can fail alone."""

import copy
import json

import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.criterion import Criterion
from recpolicy.evaluation.gate import GateConfig, gate

GOOD = {
    "policy": {"agent": "linucb", "content": "abc"},
    "held_out": {"gain": {"most_popular": {"value": 0.4, "lo": 0.3, "hi": 0.5}}, "coverage": 0.3},
    "off_policy": {
        "against": "incumbent 1234", "gain": {"value": 0.1, "lo": 0.05, "hi": 0.15}, "effective_rounds": 500.0,
        "weight_off": 1.0,
    },
}  # fmt: skip


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
    assert len(found.criteria) == 5


@pytest.mark.parametrize(
    ("path", "value", "criterion"),
    [
        (("off_policy", "gain", "lo"), -0.001, "gain over incumbent 1234"),
        (("off_policy", "gain", "lo"), 0.0, "gain over incumbent 1234"),  # as good as the incumbent is not better
        (("off_policy", "gain", "lo"), float("nan"), "gain over incumbent 1234"),
        (("off_policy", "weight_off"), 4.1, "mean weight off 1"),
        (("held_out", "gain", "most_popular", "lo"), 0.0, "held-out gain over most popular"),
        (("held_out", "coverage"), 0.009, "coverage"),
    ],
)
def test_each_criterion_alone_fails_the_policy(path, value, criterion):
    found = gate(changed(path, value))
    assert found.verdict == "fail"
    assert [one.startswith(criterion) for one in found.reasons] == [True]


def test_too_little_log_is_no_verdict_whatever_the_gain():
    assert gate(changed(("off_policy", "effective_rounds"), 49.9)).verdict == "no_verdict"
    assert gate(changed(("off_policy", "effective_rounds"), 50.0)).verdict == "pass"


def test_limits_can_be_moved():
    assert gate(GOOD, GateConfig(margin=0.05)).verdict == "fail"
    assert gate(GOOD, GateConfig(margin=0.049)).verdict == "pass"


@pytest.mark.parametrize(("part", "criteria"), [("held_out", 3), ("off_policy", 2)])
def test_either_kind_of_figures_is_enough(part, criteria):
    body = {key: value for key, value in GOOD.items() if key != part}
    assert len(gate(body).criteria) == criteria


def test_no_figures_at_all_is_an_error():
    with pytest.raises(DataError, match="neither held-out nor off-policy"):
        gate({"policy": {}})


@pytest.mark.parametrize("name", ["least_effective_rounds", "weight_error", "least_coverage"])
@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_limits_that_make_no_sense_are_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        GateConfig(**{name: value})


def test_record_is_json_and_the_table_names_what_was_not_kept():
    found = gate(changed(("off_policy", "gain", "lo"), float("nan")))
    plain = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert plain["criteria"][0]["figure"] is None
    assert plain["verdict"] == "fail"
    assert found.table()["result"].tolist() == ["NOT KEPT", "kept", "kept", "kept", "kept"]
    assert found.table()["limit"].iloc[0] == "> 0"


@pytest.mark.parametrize(
    ("figure", "at_least", "strict", "kept"),
    [(1.0, True, False, True), (1.0, True, True, False), (1.0, False, True, False), (0.9, False, True, True)],
)
def test_strict_limit_must_be_passed(figure, at_least, strict, kept):
    assert Criterion("x", figure, 1.0, at_least, strict).passed is kept
