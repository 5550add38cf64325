"""Jobs on ranked events: retraining with its gate, evaluations and feature importances by the retired client."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from api_keys import key_for, listening
from sqlalchemy import insert
from tiny_feature_log import tiny_actions, tiny_log, trained_case
from waiting import wait_until

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.feature_artifact import write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import RankEvent, insert_rank_events, row_digest
from recpolicy.server.db.schema import rank_signals
from recpolicy.server.jobs.drift import check as check_drift
from recpolicy.server.jobs.evaluate_worker import estimate_days
from recpolicy.server.jobs.rank_evaluations import evaluate_ranks, feature_importances
from recpolicy.server.jobs.retrain_worker import train_on
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import JobsConfig, LimitsConfig, RankConfig, Settings

REWARD = RewardConfig(weights={"reward": 1.0}, wait_seconds=600, min_reward=0.0, max_reward=1.0)
SETTINGS = Settings(
    limits=LimitsConfig(rate=0), rank=RankConfig(start_uniform=True), reward=REWARD,
    jobs=JobsConfig(min_interactions=100, min_evaluation_rounds=100, evaluation_share=0.5),
)  # fmt: skip


@pytest.fixture
def state(tmp_path):
    registry = Registry(tmp_path / "registry")
    write_feature_policy(trained_case("squarecb"), tmp_path / "squarecb")
    registry.register(tmp_path / "squarecb")
    registry.promote(1, ungated=True)
    with open_state(registry.folder, None, SETTINGS) as state:
        yield state


def store(state, log):
    """Store the rounds of a log as ranks with rewards."""
    known = dict(tiny_actions())
    events, signals = [], []
    for row in range(len(log)):
        offers = log.offered[log.start[row] : log.start[row + 1]]
        names = [log.action_id[offer] for offer in offers]
        rows = tuple(json.dumps({"id": name, "features": known[name]}) for name in names)
        context = {name: column[row].item() if hasattr(column[row], "item") else column[row]
                   for name, column in log.context.items()}  # fmt: skip
        rest = (1 - log.propensity[row]) / (len(names) - 1)
        probability = np.where(np.arange(len(names)) == log.chosen[row], log.propensity[row], rest)
        order = np.concatenate([[log.chosen[row]], np.delete(np.arange(len(names)), log.chosen[row])])
        events.append(
            RankEvent(
                id=log.event_id[row], slot=0, slot_id=None, time=int(log.time[row]), user_key=None, version=1,
                policy_digest="d" * 64, agent="squarecb", mode="online", context=json.dumps(context),
                offers=b"".join(map(row_digest, rows)), probabilities=probability.astype("<f8").tobytes(),
                ranking=order.astype("<u2").tobytes(), imitated=None, request_digest="r" * 32, online=True,
                activated_at=int(log.time[row]), variant="champion", rollout=None, task=None, guardrails=None,
                rows=rows,
            )
        )  # fmt: skip
        signals.append(
            {"event_id": log.event_id[row], "slot": 0, "signal_id": None, "type": "reward", "late": False,
             "value": float(log.reward[row]), "time": int(log.time[row]) + 1, "online": True}
        )  # fmt: skip
    with transaction(state.store.engine) as connection:
        insert_rank_events(connection, events)
        connection.execute(insert(rank_signals), signals)


def test_the_champion_learns_from_new_ranks_and_is_gated(state):
    request = JobRequest.from_state(state, {})
    skipped = train_on(request)
    assert (skipped.status, skipped.records) == ("skipped", 0)
    store(state, tiny_log(600, seed=9, name="new"))
    result = train_on(request)
    assert (result.status, result.records, result.metadata["version"]) == ("done", 300, 2)
    assert result.metadata["gate"]["verdict"] in ("pass", "fail", "no verdict")
    version = state.models.registry.version(2)
    assert version.lineage["trained_from"] == 1
    assert version.lineage["log_until"] == 1_700_000_000_000 + 299_000
    state.models.registry.promote(2, ungated=True)
    again = train_on(JobRequest.from_state(state, {}))  # the rounds that the gate had are new to the second version
    assert (again.records, again.metadata["from"]) == (150, 2)


def test_a_model_that_does_not_learn_further_skips_the_training(tmp_path):
    registry = Registry(tmp_path / "registry")
    write_feature_policy(trained_case("neural_linucb"), tmp_path / "neural")
    registry.register(tmp_path / "neural")
    registry.promote(1, ungated=True)
    with open_state(registry.folder, None, SETTINGS) as state:
        store(state, tiny_log(300, seed=9, name="new"))
        result = train_on(JobRequest.from_state(state, {}))
    if not trained_case("neural_linucb").learns_online:
        assert result.status == "skipped"
        assert "does not learn from further rounds" in result.metadata["reason"]


def test_the_daily_evaluation_estimates_champion_baseline_and_random(state):
    assert "no ranked event" in estimate_days(JobRequest.from_state(state, {})).metadata["no_verdict"]
    log = tiny_log(600, seed=9, name="new")
    store(state, replace(log, time=log.time - log.time.max() + now_ms() - 700_000))
    policies = estimate_days(JobRequest.from_state(state, {})).metadata["policies"]
    assert policies["logged"]["rounds"] == 600
    assert policies["champion"]["dr"]["value"] > policies["random"]["dr"]["value"]
    assert policies["baseline"]["dr"]["verdict"] == "estimated"


def test_drift_of_ranks_compares_their_rewards(state):
    """Windows of few events give no metrics; test_drift.py has larger ones."""
    result = check_drift(state, {})
    assert (result.status, result.metadata["alarms"]) == ("done", {})
    assert result.metadata["metrics"]["users"] is None


def test_the_policy_predicts_by_the_features_that_count():
    log = tiny_log(2_000, seed=4)
    noisy = replace(log, context={**log.context, "member": np.roll(log.context["member"], 7)})
    scores = {each["feature"]: each["score"] for each in feature_importances(trained_case("squarecb"), noisy)}
    assert max(scores.values()) == 100
    assert scores["member"] < min(scores["hour"], scores["device"])  # the flag plays no part in the reward


@pytest.fixture
def operator(state):
    personalizer = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    credentials = pytest.importorskip("azure.core.credentials")
    app = make_app(state)
    with listening(app) as (host, port):
        key = credentials.AzureKeyCredential(key_for(app, "operator"))
        with personalizer.PersonalizerAdministrationClient(f"http://{host}:{port}", key) as client:
            yield client


def test_evaluations_and_importances_by_the_retired_client(state, operator):
    from azure.core.exceptions import HttpResponseError, ResourceExistsError, ResourceNotFoundError

    store(state, tiny_log(600, seed=9, name="new"))
    begin = datetime(2023, 11, 14, tzinfo=UTC)
    body = {"name": "first", "startTime": begin.isoformat(), "endTime": (begin + timedelta(days=2)).isoformat()}
    assert operator.create_evaluation("e1", body) is None
    with pytest.raises(ResourceExistsError):
        operator.create_evaluation("e1", body)
    assert operator.create_feature_importance("i1", body) is None

    def finished(show):
        record = show()
        return record if record["status"] != "Running" else None

    evaluation = wait_until(
        lambda: finished(lambda: operator.get_evaluation("e1", start_time=begin, end_time=begin)), "the evaluation"
    )
    assert evaluation["status"] == "Succeeded", evaluation
    values = {each["policySource"]: each["summary"] for each in evaluation["content"]["value"]}
    assert values.keys() == {"Online", "Custom", "Baseline", "Random"}
    low, high = values["Custom"]["confidenceInterval"]
    assert 0 <= low <= values["Custom"]["expectedReward"] <= high <= 1
    assert values["Custom"]["expectedReward"] > values["Random"]["expectedReward"]
    assert [each["id"] for each in operator.list_evaluations()] == ["e1"]
    importance = wait_until(lambda: finished(lambda: operator.get_feature_importance("i1")), "the importances")
    assert importance["featureScores"][0]["score"] == 100
    assert {each["featureName"] for each in importance["featureScores"]} == {
        "hour", "device", "member", "size", "color", "tags"
    }  # fmt: skip
    assert [each["id"] for each in operator.list_feature_importances()] == ["i1"]
    assert operator.delete_evaluation("e1") is None
    assert operator.delete_feature_importance("i1") is None
    with pytest.raises(ResourceNotFoundError):
        operator.get_evaluation("e1", start_time=begin, end_time=begin)
    with pytest.raises(HttpResponseError, match="startTime is not before endTime"):
        operator.create_evaluation("e2", body | {"endTime": body["startTime"]})


def test_an_evaluation_without_events_fails_with_the_reason(state, operator):
    begin = datetime(2023, 11, 14, tzinfo=UTC)
    body = {"name": "none", "startTime": begin.isoformat(), "endTime": (begin + timedelta(days=2)).isoformat()}
    operator.create_evaluation("e1", body)

    def finished():
        record = operator.get_evaluation("e1", start_time=begin, end_time=begin)
        return record if record["status"] != "Running" else None

    record = wait_until(finished, "the evaluation")
    assert record["status"] == "Failed"
    assert "no ranked event has a final reward" in record["description"]


def test_the_worker_needs_a_model(state):
    store(state, tiny_log(50, seed=9, name="new"))
    parameters = {"kind": "evaluation", "since": 0, "until": 2 * 10**12, "version": None}
    with pytest.raises(ValueError, match="there is no model"):
        evaluate_ranks(JobRequest.from_state(state, parameters))
