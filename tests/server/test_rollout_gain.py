"""Predicted against measured gain: from the gate record of a version and the audit of its rollout."""

import json
import math

import pytest
from command_line import recpolicy, refused
from rollout_fixtures import rate, rolling, tiny_registry

from recpolicy.core.statistics import Interval
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import rollouts
from recpolicy.server.jobs.rollout_job import check_rollout
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.gain import GainComparison, compare_gains, gain_table

PREDICTED = {"value": 0.4, "lo": 0.1, "hi": 0.7, "baseline": "the logging policy", "unit": "round"}


def comparison(predicted, measured, unit="round"):
    return GainComparison(1, 1, 2, "promoted", predicted, "x", unit, measured, 100)


@pytest.mark.parametrize(
    ("predicted", "measured", "verdict"),
    [
        ((0.1, 0.7), (0.0, 0.2), "as predicted: intervals overlap"),
        ((0.1, 0.7), (-0.5, 0.0), "less than predicted"),
        ((0.1, 0.7), (0.8, 0.9), "more than predicted"),
        (None, (0.8, 0.9), "not predicted"),
        ((0.1, 0.7), None, "not measured"),
    ],
)
def test_the_verdict_compares_intervals(predicted, measured, verdict):
    both = [None if limits is None else Interval(sum(limits) / 2, *limits) for limits in (predicted, measured)]
    assert comparison(*both).verdict == verdict


def test_rewards_of_a_session_and_of_an_item_are_not_compared():
    found = comparison(Interval(2, 1, 3), Interval(0.2, 0.1, 0.3), unit="session")
    assert found.verdict == "other units: compare the signs"


def test_a_rollout_that_ended_has_the_difference_of_the_last_stage_with_both_variants(tmp_path, capsys):
    tiny_registry(tmp_path, {"verdict": "pass", "predicted_gain": {"off_policy": PREDICTED}})
    with rolling(tmp_path) as state:
        controller.start(state, 2, "ann")
        for stage, users in enumerate((900, 900, 60)):
            with state.store.engine.connect() as connection:
                (row,) = rollouts.latest(connection, 1)
                if stage == 0:
                    (before,) = compare_gains(Registry(tmp_path / "registry"), connection)
            check_rollout(state, {})
            with state.store.engine.connect() as connection:
                (row,) = rollouts.latest(connection, 1)
            rate(state, row, users, difference=0.3, seed=stage)
            check_rollout(state, {})
        with state.store.engine.connect() as connection:
            (found,) = compare_gains(Registry(tmp_path / "registry"), connection)
    assert (before.verdict, before.measured) == ("not measured", None)
    assert (found.state, found.challenger, found.users) == ("promoted", 2, 900)
    assert found.predicted == Interval(0.4, 0.1, 0.7)
    assert found.measured.lo < 0.3 < found.measured.hi
    assert math.isfinite(found.measured.hi)
    assert found.verdict == "as predicted: intervals overlap"
    assert gain_table([found])["over"].tolist() == ["the logging policy"]
    answer = recpolicy(capsys, "study", "gain", tmp_path / "registry", "--state", tmp_path / "state", "--json")
    assert json.loads(answer.out)[0]["verdict"] == "as predicted: intervals overlap"
    assert "no registry" in refused(recpolicy(capsys, "study", "gain", tmp_path / "state"))
    assert "no such file" in refused(recpolicy(capsys, "study", "gain", tmp_path / "registry", "--state", tmp_path))
