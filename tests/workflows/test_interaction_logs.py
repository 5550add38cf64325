"""Logs of simulated policies, their ingest, and training from them: what is written, and what is refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from hand_logs import FAULTS, assert_same_rounds, hand_rounds, tables, write_log
from trained_policies import TINY, loaded, miniature_split, trained

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import EVALUATION, TRAINING, IngestConfig
from recpolicy.data.log_parts import EVENTS, REWARDS
from recpolicy.inference.predictor import Policy
from recpolicy.training import tensorflow_export
from recpolicy.workflows.interaction_logs import (
    REPORT,
    SIMULATION,
    ingest_log,
    logging_probabilities,
    read_rounds,
    simulate_log,
)
from recpolicy.workflows.interaction_logs import LogConfig as Config
from recpolicy.workflows.logging_policies import LOGGING_POLICIES
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.training_data import FeatureConfig, prepare_features

WORLD = {"rating_model": "svd", "world": "item_knn", "rank": 5, "batch_size": 16}
ROUNDS = 3_000
LOG = {"rounds": ROUNDS, "temperature": 0.5, "uniform_mix": 0.1}


def simulate(out, logging_policy="rating_model", seed=0, world=WORLD, **log):
    return simulate_log(
        miniature_split().train, out, logging_policy=logging_policy, config=LOG | log, train=world, seed=seed
    )


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of the rating model."""
    folder = tmp_path_factory.mktemp("logs") / "log"
    assert simulate(folder) == ROUNDS
    return folder


def all_rounds(folder, tmp_path, known=None):
    """The rounds of a log, none kept for evaluation."""
    known = known or IdVocabulary.from_ratings(miniature_split().train)
    ingest_log(folder, tmp_path / "rounds", known, {"evaluation_share": 0})
    return read_rounds(tmp_path / "rounds" / TRAINING, known)


def test_only_a_log_of_real_rewards_moves_rating_and_std(log, tmp_path, monkeypatch):
    """The ingest keeps that a log was simulated; the same rewards without that note count as people's."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    shutil.copytree(log, tmp_path / "real" / "log")
    (tmp_path / "real" / "log" / SIMULATION).unlink()
    (tmp_path / "simulated").mkdir()
    policies = {}
    for kind, folder in (("simulated", log), ("real", tmp_path / "real" / "log")):
        rounds = all_rounds(folder, tmp_path / kind)
        assert rounds.simulator == {"simulated": "item_knn", "real": None}[kind]
        config = WORLD | {"mode": "log"}
        policies[kind] = train("linucb", miniature_split(), tmp_path / kind / "policy", config=config, log=rounds)
        assert policies[kind].metadata["training"]["rewards"] == kind
    simulated, real = (policies[kind].predict(7) for kind in ("simulated", "real"))
    np.testing.assert_array_equal(simulated["value"], real["value"])
    np.testing.assert_array_equal(real["rating"], real["value"])
    assert np.abs(simulated["rating"] - simulated["value"]).max() > 0.02
    assert (real["std"] < 0.99 * simulated["std"]).any()
    assert (real["std"] <= 1.00001 * simulated["std"]).all()


def softmax_policy(score, temperature, uniform_mix):
    """By hand, in float64."""
    weight = np.exp((score - score.max(axis=1, keepdims=True)).astype(np.float64) / temperature)
    return (1 - uniform_mix) * weight / weight.sum(axis=1, keepdims=True) + uniform_mix / score.shape[1]


def test_the_propensities_are_those_of_the_softmax_over_the_scores(log, tmp_path):
    rounds = all_rounds(log, tmp_path)
    model = prepare_features(miniature_split().train, FeatureConfig(rating_model="svd", rank=5)).model
    probability = softmax_policy(model.mean, 0.5, 0.1)
    np.testing.assert_allclose(rounds.propensity, probability[rounds.user, rounds.item], rtol=1e-9)
    assert rounds.propensity.min() >= 0.1 / 80
    assert len(rounds) == ROUNDS
    assert set(rounds.policy) == {"rating_model"}
    # A weight of 1 in every round: the logging policy's own value by inverse propensities is the mean reward.
    own = (probability[rounds.user, rounds.item] / rounds.propensity * rounds.reward).mean()
    assert own == pytest.approx(rounds.reward.mean(), rel=1e-9)


def test_the_same_seed_writes_the_same_bytes_and_another_seed_another_log(log, tmp_path):
    simulate(tmp_path / "again")
    simulate(tmp_path / "other", seed=1)
    for name in (EVENTS, REWARDS, SIMULATION):
        assert (tmp_path / "again" / name).read_bytes() == (log / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (log / name).read_bytes()


def test_a_log_says_who_made_it_and_how(log):
    note = json.loads((log / SIMULATION).read_text())
    assert (note["logging_policy"], note["seed"], note["train_digest"]) == (
        "rating_model",
        0,
        miniature_split().train.digest,
    )
    assert note["config"]["temperature"] == 0.5
    assert note["train"]["world"] == "item_knn"
    assert pq.read_table(log / EVENTS)["policy_version"].unique().to_pylist() == [note["version"]]


def test_rewards_come_later_in_a_file_of_their_own(log):
    events, rewards = pq.read_table(log / EVENTS).to_pandas(), pq.read_table(log / REWARDS).to_pandas()
    assert events["reward"].isna().all()
    assert events["time"].is_monotonic_increasing
    assert str(events["time"].min().date()) == "2026-01-05"
    assert str(events["time"].max().date()) == "2026-01-11"
    assert rewards["time"].is_monotonic_increasing
    delay = events.merge(rewards, on="event_id")
    hours = (delay["time_y"] - delay["time_x"]).dt.total_seconds() / 3600
    assert len(hours) == ROUNDS
    assert (hours >= 0).all()
    assert hours.mean() == pytest.approx(1.0, abs=5 / np.sqrt(ROUNDS))


def test_a_uniform_logger_has_propensity_one_in_a(tmp_path):
    simulate(tmp_path / "log", "random", uniform_mix=0.0, rounds=200)
    rounds = all_rounds(tmp_path / "log", tmp_path)
    np.testing.assert_allclose(rounds.propensity, 1 / 80, rtol=1e-14)


def test_some_rewards_never_come(tmp_path):
    simulate(tmp_path / "log", "highest_mean", missing_share=0.3, reward_delay_hours=0)
    came = pq.read_table(tmp_path / "log" / REWARDS).num_rows
    assert abs(came / ROUNDS - 0.7) < 5 * np.sqrt(0.21 / ROUNDS)
    known = IdVocabulary.from_ratings(miniature_split().train)
    report = ingest_log(tmp_path / "log", tmp_path / "rounds", known, {"wait_hours": 1, "default_reward": 1})
    assert report.joined == came
    assert report.defaulted > 0
    assert report.waiting > 0
    assert report.joined + report.defaulted + report.waiting == ROUNDS


def test_a_trained_policy_logs_over_its_own_catalog_under_the_name_of_its_content(tmp_path):
    policy = loaded("linucb_hybrid")  # 30 of the 80 items
    simulate(tmp_path / "log", policy, rounds=500)
    rounds = all_rounds(tmp_path / "log", tmp_path, IdVocabulary.from_policy(policy))
    np.testing.assert_array_equal(rounds.action_items, policy.artifact.action_items)
    probability = softmax_policy(policy.scores()[0][:, rounds.action_items], 0.5, 0.1)
    np.testing.assert_allclose(rounds.propensity, probability[rounds.user, rounds.arm()], rtol=1e-9)
    assert set(rounds.version) == {policy.metadata["policy_digest"]}
    assert set(rounds.policy) == {"linucb_hybrid"}


def test_policies_that_cannot_log_these_rounds_are_refused(tmp_path):
    artifact = loaded("linucb").artifact
    fewer = Policy(replace(artifact, users=artifact.users.iloc[:-1]))
    with pytest.raises(DataError, match="other users or items than those of the logging policy"):
        simulate(tmp_path / "log", fewer)
    sequential = Policy(replace(artifact, policy={**artifact.policy, "view": np.array("last_n")}))
    with pytest.raises(
        ConfigError, match="linucb is a session policy; a log of rounds or slates needs a policy of single rounds"
    ):
        simulate(tmp_path / "log", sequential)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("logging_policy", "world", "log", "message"),
    [
        ("rating_mode", {}, {}, r"no logging policy named 'rating_mode'\. Did you mean 'rating_model'"),
        ("most_popular", {}, {}, "no logging policy named 'most_popular'"),
        ("random", {}, {"round": 3}, r"log: no setting named 'round'\. Did you mean 'rounds'"),
        ("random", {}, {"rounds": 0}, "rounds is 0: expected"),
        ("random", {}, {"temperature": 0}, r"temperature is 0: expected"),
        ("random", {}, {"temperature": 1e-320}, "temperature is 1e-320: expected"),
        ("random", {}, {"days": float("inf")}, "days is inf: expected"),
        ("random", {}, {"uniform_mix": 1.5}, r"uniform_mix is 1\.5: expected"),
        ("random", {}, {"missing_share": -0.1}, r"missing_share is -0\.1: expected"),
        ("random", {}, {"reward_delay_hours": -1}, r"reward_delay_hours is -1: expected"),
        ("random", {}, {"first_day": "yesterday"}, "first_day is 'yesterday': expected a date such as 2026-01-05"),
        ("random", {}, {"first_day": "NaT"}, "first_day is 'NaT'"),
        ("random", {"world": "svd"}, {}, "must be of another class"),
        ("random", {"items": 99}, {}, "items is 99"),
    ],
)
def test_settings_that_make_no_sense_leave_nothing_behind(tmp_path, logging_policy, world, log, message):
    with pytest.raises(ConfigError, match=message):
        simulate(tmp_path / "log", logging_policy, world=WORLD | world, **log)
    assert list(tmp_path.iterdir()) == []


def test_loggers_are_scored_in_stars():
    assert LOGGING_POLICIES == ("random", "highest_mean", "rating_model")


def test_without_a_floor_a_sharp_softmax_is_greedy_and_rows_sum_to_one():
    score = np.array([[3.0, 4.0, 3.9], [1.0, 5.0, 2.0]])
    sharp = logging_probabilities(score, Config(temperature=1e-3, uniform_mix=0.0))
    np.testing.assert_allclose(sharp, [[0, 1, 0], [0, 1, 0]], atol=1e-12)
    np.testing.assert_allclose(logging_probabilities(score, Config(uniform_mix=1.0)), 1 / 3)
    assert np.abs(logging_probabilities(score, Config()).sum(axis=1) - 1).max() < 1e-15


def test_what_exists_is_not_overwritten(log, tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(ArtifactError, match="there: already exists; choose another folder"):
        simulate(tmp_path / "there")
    before = (log / EVENTS).read_bytes()
    with pytest.raises(ArtifactError, match="log: already exists"):
        ingest_log(log, log, IdVocabulary.from_ratings(miniature_split().train))
    assert (log / EVENTS).read_bytes() == before


def test_what_is_ingested_is_read_back_as_it_was_joined(tmp_path):
    rounds = hand_rounds(12, candidates=True)
    report = ingest_log(write_log(tmp_path / "log", rounds), tmp_path / "rounds", tables(), {"evaluation_share": 0.25})
    assert_same_rounds(read_rounds(tmp_path / "rounds" / TRAINING, tables()), rounds.take(0, 9, "x"))
    assert_same_rounds(read_rounds(tmp_path / "rounds" / EVALUATION, tables()), rounds.take(9, 12, "x"))
    assert json.loads((tmp_path / "rounds" / REPORT).read_text()) == report.as_dict()
    assert sorted(path.name for path in (tmp_path / "rounds").iterdir()) == sorted([TRAINING, EVALUATION, REPORT])


def test_without_a_share_for_evaluation_there_are_no_rounds_to_evaluate_on(tmp_path):
    ingest_log(
        write_log(tmp_path / "log", hand_rounds()), tmp_path / "rounds", tables(), IngestConfig(evaluation_share=0)
    )
    with pytest.raises(DataError, match=r"evaluation\.parquet: no events"):
        read_rounds(tmp_path / "rounds" / EVALUATION, tables())


@pytest.mark.parametrize("fault", FAULTS)
def test_of_a_log_with_a_fault_nothing_is_written(tmp_path, fault):
    spoil, message = FAULTS[fault]
    spoil(write_log(tmp_path / "log", hand_rounds()))
    with pytest.raises(DataError, match=message):
        ingest_log(tmp_path / "log", tmp_path / "rounds", tables())
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


@pytest.fixture
def without_saved_models(monkeypatch):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


FROM_LOG = WORLD | {"mode": "log"}


@pytest.mark.usefixtures("without_saved_models")
def test_a_policy_is_trained_from_a_log_and_says_which(log, tmp_path):
    rounds = all_rounds(log, tmp_path)
    policy = train("linucb", miniature_split(), tmp_path / "policy", config=FROM_LOG, log=rounds)
    assert policy.metadata["log"] == rounds.digest
    assert policy.metadata["training"]["mode"] == "log"
    assert policy.metadata["training"]["rows"] == ROUNDS
    before = prepare_features(miniature_split().train, FeatureConfig(rating_model="svd", rank=5)).model.mean
    after = policy.scores()[1]

    def error(estimate):
        return np.square(estimate[rounds.user, rounds.item] - rounds.reward).mean()

    assert error(after) < 0.98 * error(before)
    assert not (tmp_path / "policy.incomplete").exists()


@pytest.mark.usefixtures("without_saved_models")
@pytest.mark.parametrize(
    ("agent", "config", "given", "kind", "message"),
    [
        ("linucb", FROM_LOG, False, ConfigError, "mode is 'log'; a log goes with the mode 'log', and that needs a log"),
        ("linucb", TINY, True, ConfigError, "train: mode is 'online'; a log goes with the mode 'log'"),
        ("linucb", TINY | {"mode": "offline"}, True, ConfigError, "mode is 'offline'"),
        ("exp3", FROM_LOG, True, ConfigError, "exp3 cannot learn from a log"),
        ("ppo", {}, True, ConfigError, "ppo learns in simulated sessions, not from logged rounds"),
        ("linucb", FROM_LOG | {"items": 5}, True, DataError, "show items that are not among the 5 of the policy"),
    ],
)
def test_a_log_that_does_not_fit_leaves_nothing_behind(log, tmp_path, agent, config, given, kind, message):
    rounds = all_rounds(log, tmp_path / "scratch") if given else None
    out = tmp_path / "out" / "policy"
    with pytest.raises(kind, match=message):
        train(agent, miniature_split(), out, config=config, log=rounds)
    assert not out.parent.exists()


def test_the_artifact_holds_its_learner():
    assert {path.name for path in (trained("linucb") / "checkpoint").iterdir()} >= {"state.index"}
