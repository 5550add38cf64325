"""Judgements of policies trained on the miniature, on held-out ratings and on a log with true propensities."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ingested_logs import WORLD, ingested_log
from tiny_dataset import miniature_ratings
from trained_policies import loaded, miniature_split, trained

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING
from recpolicy.evaluation.gate import GateConfig, gate
from recpolicy.evaluation.groups import make_groups
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.candidate_evaluation import (
    evaluate_candidate,
    evaluate_candidate_folder,
    measure_latency,
    off_policy_gain,
)
from recpolicy.workflows.evaluation_files import read_candidate_evaluation, write_candidate_evaluation
from recpolicy.workflows.evaluation_rounds import read_evaluation_rounds
from recpolicy.workflows.gating import gate_config, gate_evaluation, read_gate, read_gate_config, write_gate
from recpolicy.workflows.interaction_logs import read_rounds
from recpolicy.workflows.log_evaluation import compare_on_log
from recpolicy.workflows.reports import write_evaluation_page


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    return ingested_log(tmp_path_factory.mktemp("log"), rounds=6_000)


@pytest.fixture(scope="module")
def log(rounds):
    return read_rounds(rounds / EVALUATION, IdVocabulary.from_ratings(miniature_ratings()))


def test_judging_needs_something_to_judge_by():
    with pytest.raises(DataError, match="are both None"):
        evaluate_candidate_folder(trained("linucb"), None, None)


def test_policy_against_itself_gains_exactly_nothing(log):
    found = off_policy_gain(loaded("linucb"), loaded("linucb"), log)
    assert found.value == 0
    assert found.limits["t"].lo == found.limits["t"].hi == 0


def test_against_the_logging_policy_stands_the_mean_reward(log):
    found = off_policy_gain(loaded("linucb"), None, log)
    assert found.incumbent.value == pytest.approx(log.reward.mean())
    assert found.value == pytest.approx(found.candidate.value - log.reward.mean())


def test_value_agrees_with_the_truth_of_the_world_that_paid(log):
    """The world is known here: the mean expected reward of the policy's choices."""
    from recpolicy.workflows.policy_training import TrainConfig, training_world

    world = training_world(miniature_split().train, TrainConfig(**WORLD), seed=0)
    best = loaded("linucb").scores()[0].argmax(axis=1)
    truth = world.expected[log.user, best[log.user]].mean()
    found = off_policy_gain(loaded("linucb"), None, log).candidate
    error = (found.intervals["t"].hi - found.intervals["t"].lo) / 2 / 1.96
    assert abs(found.value - truth) < 3 * error
    assert abs(log.reward.mean() - truth) > 3 * error  # the negative control: the logging policy's value is another


def test_rounds_that_the_policy_has_learnt_from_are_refused(rounds, tmp_path, monkeypatch):
    from recpolicy.training import tensorflow_export
    from recpolicy.workflows.policy_training import train

    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    learned = read_rounds(rounds / TRAINING, IdVocabulary.from_ratings(miniature_ratings()))
    policy = train("linucb", miniature_split(), tmp_path / "policy", config={**WORLD, "mode": "log"}, log=learned)
    with pytest.raises(DataError, match="has learned from 3,000 of these 3,000 rounds"):
        off_policy_gain(policy, None, learned)


def test_split_of_other_ratings_is_refused():
    from recpolicy.data.splits import split

    with pytest.raises(DataError, match="was fitted on the train part of 'u1'"):
        evaluate_candidate_folder(trained("linucb"), split(miniature_ratings(), "u2"), None)


def test_likes_are_ratings_of_4_and_more_and_their_auc_is_the_share_of_pairs_in_order():
    evaluation = evaluate_candidate_folder(trained("linucb"), miniature_split(), None)
    test = miniature_split().test
    estimate = loaded("linucb").ratings()[0][test.user, test.item]
    above, below = estimate[test.rating >= 4], estimate[test.rating < 4]
    pairs = above[:, None] - below
    assert evaluation.likes["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert np.sum(evaluation.likes["confusion"]) == len(test)
    assert np.isfinite(evaluation.likes["threshold"]).all()


def test_evaluation_and_gate_survive_the_disk(rounds, tmp_path):
    evaluation = evaluate_candidate_folder(
        trained("linucb"), miniature_split(), rounds / EVALUATION, trained("rating_model")
    )
    write_candidate_evaluation(evaluation, tmp_path / "evaluation.json")
    write_evaluation_page(evaluation, tmp_path / "page.html")
    body = read_candidate_evaluation(tmp_path / "evaluation.json")
    assert body["off_policy"]["baseline"].startswith("incumbent ")
    assert body["held_out"]["held_out_choice"]["value"] == (
        evaluation.held_out.evaluation.policies["linucb"].held_out_choice.value
    )
    assert "incumbent" in (tmp_path / "page.html").read_text()
    found = gate_evaluation(tmp_path / "evaluation.json", {"margin": -5.0})
    write_gate(found, tmp_path / "gate.json", tmp_path / "gate.html")
    record = read_gate(tmp_path / "gate.json")
    assert (
        record["policy"]["policy_digest"] == record["inputs"]["candidate"] == loaded("linucb").metadata["policy_digest"]
    )
    assert record["inputs"]["incumbent"] == loaded("rating_model").metadata["policy_digest"]
    assert (
        record["inputs"]["rounds"]
        == read_rounds(rounds / EVALUATION, IdVocabulary.from_ratings(miniature_ratings())).digest
    )
    assert record["inputs"]["test"] == miniature_split().test.digest
    page = (tmp_path / "gate.html").read_text()
    assert "worst group" in page
    assert not re.search(r"[0-9a-f]{64}", page)
    assert page.count("Gate: ") == 2  # title and headline
    assert "UTC" in page


def test_incumbent_of_the_same_split_stands_in_the_held_out_table_and_groups_are_compared_with_it():
    evaluation = evaluate_candidate(loaded("linucb"), miniature_split(), None, loaded("popular"))
    body = evaluation.as_dict()["held_out"]
    evaluation = evaluation.held_out.evaluation
    assert body["group_gain"]["baseline"] == "incumbent"
    mine, theirs = (evaluation.policies[name].groups for name in ("linucb", "incumbent"))
    for name, found in body["group_gain"]["groups"].items():
        assert found["value"] == pytest.approx(mine[name].interval.value - theirs[name].interval.value)
    assert {"more ratings", "fewer ratings", "gender F", "gender M"} <= set(body["group_gain"]["groups"])


def test_incumbent_that_may_have_seen_the_test_part_is_left_out_of_the_held_out_table():
    artifact = loaded("popular").artifact
    split = {**artifact.metadata["split"], "train": "another"}
    other = Policy(replace(artifact, metadata={**artifact.metadata, "split": split}))
    evaluation = evaluate_candidate(loaded("linucb"), miniature_split(), None, other)
    assert "incumbent" not in evaluation.held_out.evaluation.policies
    assert evaluation.as_dict()["held_out"]["group_gain"]["baseline"] == "most_popular"


def test_collapsed_policy_is_seen_by_its_best_items(log):
    popular = evaluate_candidate(loaded("popular"), None, log)
    assert (popular.actions.distinct, popular.actions.modal_share) == (1, 1)
    assert popular.actions.diversity == pytest.approx(1 / 80)
    assert evaluate_candidate(loaded("popular"), miniature_split(), None).actions == popular.actions
    assert evaluate_candidate(loaded("rating_model"), None, log).actions.distinct > 1
    assert "diversity" in gate(popular.as_dict(), GateConfig(min_diversity=0.02)).reasons[-1]


def test_gains_of_groups_add_up_to_the_gain_of_all(log):
    """Fewer and more ratings part the users: their gains, weighted by rounds, are the doubly robust gain."""
    for incumbent in (None, loaded("popular")):
        log_comparison = compare_on_log(loaded("linucb"), incumbent, log)
        count = np.bincount(loaded("linucb").artifact.rated_user, minlength=60)
        groups = make_groups(loaded("linucb").artifact.users, count)
        found = log_comparison.group_gains(groups)
        few = groups.member[groups.names.index("fewer ratings")][log.user]
        parts = found["fewer ratings"].interval.value * few.sum() + found["more ratings"].interval.value * (~few).sum()
        assert parts / len(log) == pytest.approx(log_comparison.gain.value)


def test_the_rounds_of_a_log_that_names_nobody_are_the_units(log):
    rounds = compare_on_log(loaded("linucb"), None, replace(log, unit="round"))
    users = compare_on_log(loaded("linucb"), None, log)
    assert len(rounds.feedback.clusters) == len(log) > len(users.feedback.clusters)
    assert rounds.estimates()["ips"].value == pytest.approx(users.estimates()["ips"].value)
    one = compare_on_log(loaded("linucb"), None, replace(log, unit="round", user=np.zeros_like(log.user)))
    assert np.isfinite(one.estimates()["snips"].intervals["t"].lo)


def test_relative_gain_compares_with_who_logged_even_beside_an_incumbent(log):
    alone, beside = (compare_on_log(loaded("linucb"), other, log) for other in (None, loaded("rating_model")))
    assert alone.relative_gain == beside.relative_gain
    snips = alone.estimates()["snips"].value
    assert alone.relative_gain["t"].value == pytest.approx(snips / log.reward.mean() - 1)


def test_rounds_that_a_policy_before_has_learnt_from_are_refused(log):
    artifact = loaded("linucb").artifact
    parents = [{"policy_digest": "before", "log": log.digest}]
    child = Policy(replace(artifact, metadata={**artifact.metadata, "parents": parents}))
    with pytest.raises(DataError, match="learned from this log"):
        compare_on_log(child, None, log)


def test_incumbent_of_other_items_is_refused(log):
    artifact = loaded("popular").artifact
    items = artifact.items.assign(item_id=artifact.items["item_id"] + 1000)
    with pytest.raises(DataError, match="knows other items than the candidate"):
        compare_on_log(loaded("linucb"), Policy(replace(artifact, items=items)), log)


def test_raw_log_in_place_of_rounds_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no evaluation.parquet.*log ingest"):
        read_evaluation_rounds(tmp_path, loaded("linucb"))


def test_latency_counts_its_calls_and_stops_when_time_is_over():
    several, one = measure_latency(loaded("random"), calls=5), measure_latency(loaded("random"), seconds=0)
    assert (several.calls, one.calls) == (5, 1)
    assert 0 < several.median_ms <= several.p99_ms
    assert one.median_ms == one.p99_ms


@pytest.mark.parametrize("value", [None, "off"])
def test_limits_are_switched_off_by_null_and_by_the_word(value):
    assert gate_config({"latency_ms": value, "margin": 1}) == GateConfig(latency_ms=None, margin=1.0)


def test_misspelt_limit_is_refused():
    with pytest.raises(ConfigError, match="Did you mean 'margin'"):
        gate_config({"margine": 1})


def test_config_in_the_repository_says_the_defaults():
    assert read_gate_config(Path(__file__).parents[2] / "configs" / "gate.toml") == GateConfig()


def test_other_files_are_no_evaluations(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a recpolicy evaluation"):
        gate_evaluation(tmp_path / "other.json")
