"""Judgements of policies trained on the miniature, on held-out ratings and on a log with true propensities."""

import numpy as np
import pytest
from miniature import miniature_ratings
from trained_policies import loaded, miniature_split, trained

from recpolicy.api.gate import gate_judgement, read_gate, write_gate
from recpolicy.api.judge import judge_policy, off_policy_gain, read_judgement, write_judgement
from recpolicy.api.logs import EVALUATION, TRAINING, ingest_log, read_rounds, simulate_log, tables_of
from recpolicy.core.errors import ArtifactError, DataError

WORLD = {"rating_model": "svd", "rank": 5, "world": "item_knn"}


@pytest.fixture(scope="module")
def rounds(tmp_path_factory):
    """Rounds of a softened rating model, ingested."""
    folder = tmp_path_factory.mktemp("log")
    settings = {"rounds": 6_000, "temperature": 0.5, "floor": 0.1}
    simulate_log(miniature_split().fit, folder / "raw", config=settings, train=WORLD)
    ingest_log(folder / "raw", folder / "rounds", tables_of(miniature_ratings()), {"evaluation_share": 0.5})
    return folder / "rounds"


@pytest.fixture(scope="module")
def log(rounds):
    return read_rounds(rounds / EVALUATION, tables_of(miniature_ratings()))


def test_judging_needs_something_to_judge_by():
    with pytest.raises(DataError, match="neither is given"):
        judge_policy(trained("linucb"), None, None)


def test_policy_against_itself_gains_exactly_nothing(log):
    found = off_policy_gain(loaded("linucb"), loaded("linucb"), log)
    assert found.value == 0
    assert found.intervals["bootstrap"].lo == found.intervals["bootstrap"].hi == 0


def test_against_the_logging_policy_stands_the_mean_reward(log):
    found = off_policy_gain(loaded("linucb"), None, log)
    assert found.incumbent.value == pytest.approx(log.reward.mean())
    assert found.value == pytest.approx(found.candidate.value - log.reward.mean())


def test_value_agrees_with_the_truth_of_the_world_that_paid(log):
    """The world is known here: the mean expected reward of the policy's choices."""
    from recpolicy.api.train import TrainConfig, training_world

    world = training_world(miniature_split().fit, TrainConfig(**WORLD), seed=0)
    best = loaded("linucb").scores()[0].argmax(axis=1)
    truth = world.expected[log.user, best[log.user]].mean()
    found = off_policy_gain(loaded("linucb"), None, log).candidate
    error = (found.intervals["t"].hi - found.intervals["t"].lo) / 2 / 1.96
    assert abs(found.value - truth) < 5 * error
    assert abs(log.reward.mean() - truth) > 5 * error  # the negative control: the logging policy's value is another


def test_rounds_that_the_policy_has_learnt_from_are_refused(rounds, tmp_path, monkeypatch):
    from recpolicy.api.train import train
    from recpolicy.serving import tensorflow_export

    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    learnt = read_rounds(rounds / TRAINING, tables_of(miniature_ratings()))
    policy = train("linucb", miniature_split(), tmp_path / "policy", config={**WORLD, "mode": "log"}, log=learnt)
    with pytest.raises(DataError, match="learnt from these very rounds"):
        off_policy_gain(policy, None, learnt)


def test_split_of_other_ratings_is_refused():
    from recpolicy.data.splits import split

    with pytest.raises(DataError, match="was fitted on the fit part of 'u1'"):
        judge_policy(trained("linucb"), split(miniature_ratings(), "u2"), None)


def test_likes_are_ratings_of_4_and_more_and_their_auc_is_the_share_of_pairs_in_order():
    judged = judge_policy(trained("linucb"), miniature_split(), None)
    test = miniature_split().test
    estimate = loaded("linucb").scores()[1][test.user, test.movie]
    above, below = estimate[test.rating >= 4], estimate[test.rating < 4]
    pairs = above[:, None] - below
    assert judged.likes["auc"] == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    assert np.sum(judged.likes["confusion"]) == len(test)
    assert np.isfinite(judged.likes["threshold"]).all()


def test_judgement_and_gate_survive_the_disk(rounds, tmp_path):
    judged = judge_policy(trained("linucb"), miniature_split(), rounds / EVALUATION, trained("rating_model"))
    write_judgement(judged, tmp_path / "judgement.json", tmp_path / "page.html")
    body = read_judgement(tmp_path / "judgement.json")
    assert body["off_policy"]["against"].startswith("incumbent ")
    assert body["held_out"]["choice"]["value"] == judged.held_out.evaluation.policies["linucb"].held_out.value
    assert "incumbent" in (tmp_path / "page.html").read_text()
    found = gate_judgement(tmp_path / "judgement.json", {"margin": -5.0})
    write_gate(found, tmp_path / "gate.json", tmp_path / "gate.html")
    assert read_gate(tmp_path / "gate.json")["policy"]["content"] == loaded("linucb").about["content"]


def test_other_files_are_no_judgements(tmp_path):
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(ArtifactError, match="not a recpolicy judgement"):
        gate_judgement(tmp_path / "other.json")
