"""Estimates of a policy by every estimator on one log of rounds."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_logs import tiny_rounds
from tiny_policies import tiny_artifact

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.data.log_ingest import EVALUATION
from recpolicy.inference.predictor import Policy
from recpolicy.ope.config import OffPolicyConfig
from recpolicy.workflows.policy_estimation import COMPARED, estimate, read_evaluation_log

FEW = {"resamples": 100}


@cache
def rounds():
    return tiny_rounds()


@cache
def policy(seed=0):
    return Policy(tiny_artifact(seed))


def test_every_estimator_agrees_with_the_truth_of_the_world_that_paid():
    """Within 4 standard errors, as the t interval tells them; replay and mips need more than such a log has."""
    log, expected = rounds()
    best = policy().scores()[0].argmax(axis=1)
    truth = expected[log.user, best[log.user]].mean()
    found = estimate(policy(), log, config=FEW).estimates
    assert set(found) == {
        "ips", "clipped_ips", "sub_gaussian", "snips", "beta_ips", "dm", "dr", "sndr", "switch_dr", "dros", "mrdr",
    }  # fmt: skip
    for name, one in found.items():
        half = (one.intervals["t"].hi - one.intervals["t"].lo) / 2
        assert abs(one.value - truth) < 2 * max(half, 0.02), name
    assert abs(log.reward.mean() - truth) > 0.1  # the negative control: what was logged is worth something else


def test_a_policy_does_not_differ_from_itself_and_something_else_over_another():
    log, _ = rounds()
    same = estimate(policy(), log, policy(), config=FEW)
    assert {one.value for one in same.differences.values()} == {0.0}
    assert set(same.difference_table()["verdict"]) <= {"undecided", "no verdict"}
    other = estimate(policy(), log, policy(1), config=FEW)
    assert list(other.differences) == list(COMPARED)
    difference = other.differences["dr"]
    assert difference.value == pytest.approx(difference.candidate.value - difference.incumbent.value)
    assert other.differences["snips"].candidate.value == other.estimates["snips"].value
    assert difference.candidate.value != other.estimates["dr"].value  # its reward model is not the policy's own
    assert other.difference_table().loc["dr", "difference"] == f"{difference.value:+.3f}"


def test_estimates_are_plain_values_with_what_was_logged():
    log, _ = rounds()
    body = estimate(policy(), log, policy(1), config=FEW).as_dict()
    assert json.loads(json.dumps(body, allow_nan=False)) == body
    assert body["logged_value"] == log.reward.mean()
    assert body["config"]["reward_range"] == [1.0, 5.0]
    assert body["differences"]["dr"]["verdict"] in {"better", "worse", "undecided", "no verdict"}


def test_seed_and_settings_are_used():
    log, _ = rounds()
    first, second = (estimate(policy(), log, config=FEW, seed=seed).estimates for seed in (0, 1))
    assert first["ips"].value == second["ips"].value
    # Some intervals end at both ends of the scale, whatever the seed.
    assert any(first[name].intervals["bootstrap"] != second[name].intervals["bootstrap"] for name in first)
    fixed = estimate(policy(), log, config=OffPolicyConfig(resamples=50, settings={"clipped_ips": 2.0}))
    assert fixed.estimates["clipped_ips"].tuning.value == 2.0


def test_rounds_that_either_policy_has_learnt_from_are_refused():
    log, _ = rounds()
    learnt = tiny_artifact()
    guilty = Policy(replace(learnt, metadata={**learnt.metadata, "log": log.digest}))
    with pytest.raises(DataError, match="the policy has learned from this log"):
        estimate(guilty, log)
    with pytest.raises(DataError, match="the incumbent has learned from this log"):
        estimate(policy(), log, guilty)


def test_rounds_are_read_from_a_file_or_from_the_folder_of_an_ingest(tmp_path):
    log, _ = rounds()
    write_events(tmp_path / EVALUATION, log, IdVocabulary.from_policy(policy()), with_rewards=True)
    for path in (tmp_path, tmp_path / EVALUATION):
        np.testing.assert_array_equal(read_evaluation_log(policy(), path).reward, log.reward)
