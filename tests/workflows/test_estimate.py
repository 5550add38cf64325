"""Estimates of a policy by every estimator on one log, and the estimators' card on disk."""

import json
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from tiny_dataset import miniature_ratings
from tiny_logs import tiny_rounds
from tiny_policies import tiny_artifact

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.data.splits import split
from recpolicy.inference.predictor import Policy
from recpolicy.ope.estimate import OffPolicyConfig
from recpolicy.workflows.estimate import (
    CARD_FILE,
    GAINS,
    PAGE_FILE,
    QUICK,
    ReportConfig,
    estimate_policy,
    report_estimators,
    rounds_for,
)
from recpolicy.workflows.interaction_logs import EVALUATION

TRAIN = {"rating_model": "svd", "world": "item_knn", "rank": 5, "items": 20}
SMALL = {"sizes": (200, 500), "repetitions": 4, "resamples": 20, "clusters": 5}
FEW = {"resamples": 100}


@cache
def fit():
    return split(miniature_ratings(), "u1").train


@cache
def rounds():
    return tiny_rounds()


@cache
def policy(seed=0):
    return Policy(tiny_artifact(seed))


def test_the_card_is_kept_as_json_and_as_one_page_that_loads_nothing(tmp_path):
    card = report_estimators(fit(), tmp_path / "card", config=SMALL, train=TRAIN)
    assert sorted(path.name for path in (tmp_path / "card").iterdir()) == [PAGE_FILE, CARD_FILE]
    stored = json.loads((tmp_path / "card" / CARD_FILE).read_text())
    assert stored["cells"] == card.as_dict()["cells"]
    assert stored["fit"] == fit().digest
    assert stored["config"]["sizes"] == [200, 500]
    page = (tmp_path / "card" / PAGE_FILE).read_text()
    assert page.count("<svg") == 2 * (1 + 2)  # for each logging policy: errors, and the coverage at two sizes
    assert not re.search(r"""(?:src|href)\s*=\s*["']?[^"'#\s>]""", page)
    assert f"{card.truth:.4f}" in page


def test_the_card_plays_in_a_world_of_another_class_with_policies_near_and_far(tmp_path):
    card = report_estimators(fit(), config=SMALL, train=TRAIN)
    assert card.world == f"item_knn on {fit().name}"
    assert (card.users, card.actions) == (60, 20)
    assert card.truth > card.logged_values["near"] > card.logged_values["far"]
    near, far = (card.cell(logging_policy, 500).effective_rounds for logging_policy in ("near", "far"))
    assert near > far
    assert "replay" in card.cell("far", 500).scores  # it takes uniform logs only


def test_a_small_table_offers_all_its_items():
    card = report_estimators(fit(), config=SMALL, train={key: TRAIN[key] for key in TRAIN if key != "items"})
    assert card.actions == fit().shape[1] == 80


@pytest.mark.parametrize(
    ("settings", "train", "message"),
    [
        ({"repetition": 3}, TRAIN, "Did you mean 'repetitions'"),
        (SMALL | {"near_floor": 0}, TRAIN, "near_floor is 0.0; expected above 0"),
        (SMALL | {"target_temperature": 0}, TRAIN, "target_temperature"),
        (SMALL, TRAIN | {"world": "svd"}, "must be of another class"),
    ],
)
def test_settings_of_the_card_that_are_wrong_are_named(settings, train, message):
    with pytest.raises(ConfigError, match=message):
        report_estimators(fit(), config=settings, train=train)


def test_quick_settings_are_settings():
    assert max(ReportConfig(**QUICK).sizes) < max(ReportConfig().sizes)


def test_every_estimator_agrees_with_the_truth_of_the_world_that_paid():
    """Within 4 standard errors, as the t interval tells them; replay and mips need more than such a log has."""
    log, expected = rounds()
    best = policy().scores()[0].argmax(axis=1)
    truth = expected[log.user, best[log.user]].mean()
    found = estimate_policy(policy(), log, config=FEW).estimates
    assert set(found) == {
        "ips", "clipped_ips", "sub_gaussian", "snips", "beta_ips", "dm", "dr", "sndr", "switch_dr", "dros", "mrdr",
    }  # fmt: skip
    for name, one in found.items():
        half = (one.intervals["t"].hi - one.intervals["t"].lo) / 2
        assert abs(one.value - truth) < 2 * max(half, 0.02), name
    assert abs(log.reward.mean() - truth) > 0.1  # the negative control: what was logged is worth something else


def test_a_policy_gains_nothing_over_itself_and_something_else_over_another():
    log, _ = rounds()
    same = estimate_policy(policy(), log, policy(), config=FEW)
    assert {one.value for one in same.gains.values()} == {0.0}
    assert set(same.gain_table()["verdict"]) == {"undecided"}
    other = estimate_policy(policy(), log, policy(1), config=FEW)
    assert list(other.gains) == list(GAINS)
    gain = other.gains["dr"]
    assert gain.value == pytest.approx(gain.candidate.value - gain.incumbent.value)
    assert gain.candidate.value == other.estimates["dr"].value
    assert other.gain_table().loc["dr", "gain"] == f"{gain.value:+.3f}"


def test_estimates_are_plain_values_with_what_was_logged():
    log, _ = rounds()
    body = estimate_policy(policy(), log, policy(1), config=FEW).as_dict()
    assert json.loads(json.dumps(body, allow_nan=False)) == body
    assert body["logged"] == log.reward.mean()
    assert body["config"]["reward_range"] == [1.0, 5.0]
    assert body["gains"]["dr"]["verdict"] in {"better", "worse", "undecided", "no verdict"}


def test_seed_and_settings_are_used():
    log, _ = rounds()
    one, other = (estimate_policy(policy(), log, config=FEW, seed=seed).estimates["ips"] for seed in (0, 1))
    assert one.value == other.value
    assert one.intervals["bootstrap"] != other.intervals["bootstrap"]
    fixed = estimate_policy(policy(), log, config=OffPolicyConfig(resamples=50, settings={"clipped_ips": 2.0}))
    assert fixed.estimates["clipped_ips"].choice.value == 2.0


def test_rounds_that_either_policy_has_learnt_from_are_refused():
    log, _ = rounds()
    learnt = tiny_artifact()
    guilty = Policy(replace(learnt, metadata={**learnt.metadata, "log": log.digest}))
    with pytest.raises(DataError, match="the policy has learnt from this very log"):
        estimate_policy(guilty, log)
    with pytest.raises(DataError, match="the incumbent has learnt from this very log"):
        estimate_policy(policy(), log, guilty)


def test_rounds_are_read_from_a_file_or_from_the_folder_of_an_ingest(tmp_path):
    log, _ = rounds()
    write_events(tmp_path / EVALUATION, log, IdVocabulary.from_policy(policy()), with_rewards=True)
    for path in (tmp_path, tmp_path / EVALUATION):
        np.testing.assert_array_equal(rounds_for(policy(), path).reward, log.reward)
