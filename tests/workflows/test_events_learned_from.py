"""A log that shares an event with the training of a policy, or of its ancestors, cannot evaluate it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ingested_logs import WORLD
from tiny_dataset import miniature_ratings
from tiny_logs import tiny_rounds
from tiny_policies import tiny_artifact
from trained_policies import miniature_split

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.learned_events import log_events
from recpolicy.data.log_ingest import EVALUATION, TRAINING
from recpolicy.inference.artifact import LEARNED
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.registry.artifact_kinds import read_manifest, verify
from recpolicy.workflows.artifacts import training_events
from recpolicy.workflows.candidate_evaluation import evaluate_candidate
from recpolicy.workflows.gating import gate_candidate, gate_config
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds, simulate_log
from recpolicy.workflows.log_evaluation import compare_on_log
from recpolicy.workflows.policy_estimation import estimate
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.retraining import retrain

ROUNDS = 2_000
TABLES = IdVocabulary.from_ratings(miniature_ratings())


def cut(raw: Path, share: float) -> Path:
    """The folder of the rounds of a raw log, this share of them for evaluation."""
    out = raw.with_name(f"{raw.name}-{share}")
    if not out.exists():
        ingest_log(raw, out, TABLES, {"evaluation_share": share})
    return out


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """Two raw logs of one world, the second of another seed."""
    folder = tmp_path_factory.mktemp("raw")
    settings = {"rounds": ROUNDS, "temperature": 0.5, "uniform_mix": 0.1}
    for seed, name in enumerate(("first", "second")):
        simulate_log(miniature_split().train, folder / name, config=settings, train=WORLD, seed=seed)
    return folder


@pytest.fixture(scope="module")
def learned(raw, tmp_path_factory):
    """The folder of a policy that learned from the first 80 % of the first log."""
    out = tmp_path_factory.mktemp("learned") / "policy"
    log = read_rounds(cut(raw / "first", 0.2) / TRAINING, TABLES)
    train("linucb", miniature_split(), out, config={**WORLD, "mode": "log"}, log=log)
    return out


def test_another_cut_of_the_same_log_is_refused_and_the_honest_cut_is_not(raw, learned):
    """Learn from 1 to 1,600, evaluate on 201 to 2,000: the 1,400 rounds from 201 to 1,600 are in both."""
    policy, other = load_policy(learned), cut(raw / "first", 0.9)
    with pytest.raises(DataError) as refusal:
        gate_candidate(policy, None, other, None, gate_config())
    assert str(refusal.value) == (
        f"{other / EVALUATION}: the policy, or one of its ancestors, has learned from 1,400 of these 1,800 rounds;"
        " evaluate it on rounds that played no part in its training"
    )
    with pytest.raises(DataError, match="has learned from 1,400 of these 1,800 rounds"):
        estimate(policy, other)
    honest = read_rounds(cut(raw / "first", 0.2) / EVALUATION, TABLES)
    assert compare_on_log(policy, None, honest).feedback.reward.tolist() == honest.reward.tolist()
    assert evaluate_candidate(policy, None, read_rounds(cut(raw / "second", 0.9) / EVALUATION, TABLES)).off_policy


def test_one_round_in_common_is_enough(raw, learned):
    policy = load_policy(learned)
    seen = read_rounds(cut(raw / "first", 0.2) / TRAINING, TABLES).take(1_599, 1_600, "seen")
    fresh = read_rounds(cut(raw / "first", 0.2) / EVALUATION, TABLES)
    ids = fresh.event_id.copy()
    ids[7] = seen.event_id[0]
    with pytest.raises(DataError, match="has learned from 1 of these 400 rounds"):
        compare_on_log(policy, None, replace(fresh, event_id=ids))


def test_what_an_ancestor_learned_from_is_refused_two_generations_later(raw, learned, tmp_path):
    second, third = cut(raw / "second", 0.2), tmp_path / "third"
    rounds = read_rounds(second / TRAINING, TABLES)
    retrain(learned, rounds.take(0, 800, "early"), tmp_path / "second")
    policy = retrain(tmp_path / "second", rounds.take(800, 1_600, "late"), third)
    own = [read_rounds(cut(raw / name, 0.2) / TRAINING, TABLES) for name in ("first", "second")]
    expected = np.union1d(*map(log_events, own))
    np.testing.assert_array_equal(policy.artifact.learned_events, expected)
    for name in ("first", "second"):
        with pytest.raises(DataError, match="has learned from 1,400 of these 1,800 rounds"):
            compare_on_log(policy, None, read_rounds(cut(raw / name, 0.9) / EVALUATION, TABLES))
    honest = read_rounds(second / EVALUATION, TABLES)
    compare_on_log(policy, load_policy(learned), honest)
    with pytest.raises(DataError, match="the incumbent, or one of its ancestors, has learned from"):
        compare_on_log(load_policy(learned), policy, replace(rounds, name="later log"))


def test_events_are_a_file_of_the_artifact_whose_change_is_noticed(learned, tmp_path):
    import shutil

    policy, folder = load_policy(learned), shutil.copytree(learned, tmp_path / "copy")
    assert LEARNED in read_manifest(folder)["files"]
    assert len(policy.artifact.learned_events) == 1_600
    assert policy.metadata["learned_events"] == 1_600
    verify(folder)
    np.save(folder / LEARNED, policy.artifact.learned_events[:-1])
    with pytest.raises(ArtifactError, match=r"learned_events\.npy: .*changed since it was written"):
        load_policy(folder)
    (folder / LEARNED).unlink()
    with pytest.raises(ArtifactError, match=r"learned_events\.npy: missing"):
        load_policy(folder)


def test_artifact_of_before_is_known_by_the_digest_of_its_log_and_goes_on_with_hashes(raw):
    log, other = (tiny_rounds(seed=seed)[0] for seed in (0, 1))
    other = replace(other, event_id=np.array([f"o{row}" for row in range(len(other))], object))
    old = tiny_artifact()
    before = {**old.metadata, "log": log.digest}
    with pytest.raises(DataError, match="the policy has learned from this log"):
        compare_on_log(Policy(replace(old, metadata=before)), None, log)
    parent = {"policy_digest": "aa", "log": log.digest}
    after = {**old.metadata, "log": other.digest, "learned_events": len(other), "parents": [parent]}
    child = Policy(replace(old, metadata=after, learned_events=log_events(other)))
    for learned_log in (log, other):
        with pytest.raises(DataError, match="learned from"):
            compare_on_log(child, None, learned_log)
    compare_on_log(child, None, replace(log, event_id=np.array([f"n{row}" for row in range(len(log))], object)))


def test_ratings_that_come_from_a_log_bring_its_events(raw, tmp_path):
    folder = cut(raw / "first", 0.2)
    events = training_events(None, {"source": str(folder / "ratings")})
    np.testing.assert_array_equal(events, log_events(read_rounds(folder / TRAINING, TABLES)))
    assert len(training_events(None, {"source": "ml-100k"})) == len(training_events(None, None)) == 0
