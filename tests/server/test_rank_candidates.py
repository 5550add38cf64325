"""Policies of learning settings: trained and gated in evaluations and retrainings, applied by the retired client."""

import itertools
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import numpy as np
import pytest
from api_keys import key_for, listening
from test_rank_jobs import SETTINGS, store
from tiny_feature_log import tiny_log, tiny_policy, tiny_schema, trained_case
from waiting import wait_until

from recpolicy.core.errors import ConfigError
from recpolicy.data.feature_log_files import read_feature_log
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.rank_export import export_ranks
from recpolicy.server.jobs import subprocess_jobs
from recpolicy.server.jobs.evaluate_worker import estimate_days
from recpolicy.server.jobs.rank_evaluations import evaluate_ranks
from recpolicy.server.jobs.retrain_worker import train_on
from recpolicy.server.jobs.subprocess_jobs import JobError, JobRequest
from recpolicy.server.lifespan import open_state
from recpolicy.server.rank import evaluations
from recpolicy.server.rank.learning_settings import settings_of_policy
from recpolicy.server.rank.service import LEARNING, stored_reward
from recpolicy.workflows.feature_training import train_feature_policy

ROUNDS = 1_600
KEY = "Ocp-Apim-Subscription-Key"
BEGIN = datetime(2023, 11, 14, tzinfo=UTC)
TIMES = {"startTime": BEGIN.isoformat(), "endTime": (BEGIN + timedelta(days=2)).isoformat()}
LINEAR = "--agent squarecb --precision 10"


def poor_policy():
    """A policy that learned from rewards which say nothing."""
    log = tiny_log(600, seed=3, name="noise")
    return tiny_policy(log=replace(log, reward=np.random.default_rng(0).permutation(log.reward)), uniform_mix=0.2)


def serving(tmp_path, policy, settings=SETTINGS):
    """The state of a server with this champion."""
    registry = Registry(tmp_path / "registry")
    write_feature_policy(policy, tmp_path / "champion")
    registry.register(tmp_path / "champion")
    registry.promote(1, ungated=True)
    return open_state(registry.folder, None, settings)


@pytest.fixture
def state(tmp_path):
    with serving(tmp_path, poor_policy()) as state:
        store(state, tiny_log(ROUNDS, seed=9, name="new"))
        yield state


def evaluation(state, policies=(), *, optimize=False, version=1):
    """Evaluate in this process; returns the metadata."""
    parameters = {
        "kind": "evaluation", "since": 0, "until": 2 * 10**12, "version": version, "candidates": list(policies),
        "optimize": optimize, "folder": str(state.folder / "candidates"),
    }  # fmt: skip
    return evaluate_ranks(JobRequest.from_state(state, parameters)).metadata


def test_candidates_learn_the_first_ranks_and_are_gated_on_the_last(state):
    wanted = [{"name": "linear", "arguments": LINEAR}, {"name": "wrong", "arguments": "--agent lints --bias false"}]
    result = evaluation(state, wanted, optimize=True)
    assert result["rounds"] == {"training": ROUNDS // 2, "evaluation": ROUNDS // 2}
    policies = {policy["name"]: policy for policy in result["policies"]}
    assert list(policies) == ["logged", "champion", "linear", "optimized", "baseline", "random"]
    assert {name: policy["source"] for name, policy in policies.items()} == {
        "logged": "Online", "champion": "Custom", "linear": "Custom", "optimized": "OfflineExperimentation",
        "baseline": "Baseline", "random": "Random",
    }  # fmt: skip
    assert policies["linear"]["lo"] > policies["champion"]["hi"]
    assert policies["linear"]["gate"] == policies["optimized"]["gate"] == "pass"
    assert any("wrong: bias is false" in note for note in result["notes"])
    assert result["optimal"] in ("linear", "optimized")
    assert len(result["tried"]) == 6
    best = max(result["tried"], key=lambda each: each["value"])
    assert policies["optimized"]["arguments"] == best["arguments"]
    folder = state.folder / "candidates" / policies["linear"]["folder"]
    policy = read_feature_policy(folder / "policy")
    assert str(settings_of_policy(policy)) == LINEAR
    assert len(policy.learned_events) == ROUNDS // 2
    last = 1_700_000_000_000 + (ROUNDS // 2 - 1) * 1000
    assert json.loads((folder / "lineage.json").read_text())["log_until"] == last
    assert json.loads((folder / "gate.json").read_text())["verdict"] == "pass"


def test_features_that_say_nothing_give_no_better_policy(tmp_path):
    """The control: a candidate that learns from noise passes no gate."""
    with serving(tmp_path, trained_case("squarecb")) as state:
        log = tiny_log(ROUNDS, seed=9, name="new")
        store(state, replace(log, reward=np.random.default_rng(1).permutation(log.reward)))
        result = evaluation(state, [{"name": "x", "arguments": LINEAR}])
    gates = {policy["name"]: policy["gate"] for policy in result["policies"] if "gate" in policy}
    assert gates.keys() == {"x"}
    assert gates["x"] != "pass"


def test_a_loop_without_a_policy_trains_one_from_a_proposed_schema(tmp_path):
    (tmp_path / "registry").mkdir()
    with open_state(tmp_path / "registry", None, SETTINGS) as state:
        store(state, tiny_log(ROUNDS, seed=9, name="new"))
        result = evaluation(state, [{"name": "first", "arguments": LINEAR}], version=None)
    names = [policy["name"] for policy in result["policies"]]
    assert names == ["logged", "first", "baseline", "random"]
    assert result["policies"][1]["gate"] == "pass"  # in comparison with the logging policy


def test_too_few_ranks_for_candidates_are_one_line(tmp_path):
    with serving(tmp_path, poor_policy()) as state:
        store(state, tiny_log(150, seed=9, name="new"))
        with pytest.raises(JobError, match="75 ranks to evaluate candidates on, the latest 50% of 150; expected 100"):
            evaluation(state, [{"name": "x", "arguments": LINEAR}])


def test_the_retired_client_applies_a_policy_of_an_evaluation(state, monkeypatch):
    """The whole way: evaluate, apply, and rank by both clients with the new champion."""
    # The subprocess of test_rank_jobs.py would import TensorFlow once more.
    here = lambda state, _, parameters: evaluate_ranks(JobRequest.from_state(state, parameters))  # noqa: E731
    monkeypatch.setattr(evaluations, "run_in_subprocess", here)
    ai = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    cognitive = pytest.importorskip("azure.cognitiveservices.personalizer", reason="the client is not installed")
    from azure.core.credentials import AzureKeyCredential
    from msrest.authentication import ApiKeyCredentials

    app = make_app(state)
    with listening(app) as (host, port):
        endpoint, key = f"http://{host}:{port}", key_for(app, "operator")
        operator = ai.PersonalizerAdministrationClient(endpoint, AzureKeyCredential(key))
        operator.update_policy({"name": "set before", "arguments": "--agent lints"})
        policies = [{"name": "linear", "arguments": LINEAR}]
        operator.create_evaluation("e/1", {"name": "first", "policies": policies, **TIMES})
        get = lambda: operator.get_evaluation("e/1", start_time=BEGIN, end_time=BEGIN)  # noqa: E731
        wait_until(lambda: get()["status"] != "Running", "the evaluation")
        body = get()
        assert body["status"] == "Succeeded", body
        assert body["optimalPolicy"] == "linear"
        (mine,) = [each for each in body["content"]["value"] if each["name"] == "linear"]
        assert (mine["arguments"], mine["policySource"]) == (LINEAR, "Custom")
        assert "linear: the gate says pass" in body["description"]
        assert operator.apply_from_evaluation({"evaluationId": "e/1", "policyName": "linear"}) is None
        assert operator.get_policy() == {"name": "linear", "arguments": LINEAR}
        assert state.models.live.champion.number == 2
        version = state.require_registry().version(2)
        assert (version.verdict, version.note["policy"]) == ("pass", "linear")
        assert operator.apply_from_evaluation({"evaluationId": "e/1", "policyName": "linear"}) is None  # once more
        assert len(state.require_registry().versions()) == 2
        actions = [{"id": name, "features": [{"size": 1.0, "color": "red", "tags": []}]} for name in ("a0", "a1")]
        context = [{"hour": 1.0, "device": "mobile", "member": True}]
        with ai.PersonalizerClient(endpoint, AzureKeyCredential(key)) as client:
            assert client.rank({"actions": actions, "contextFeatures": context})["rewardActionId"] in ("a0", "a1")
        old = cognitive.PersonalizerClient(endpoint, ApiKeyCredentials(in_headers={KEY: key}))
        from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest

        request = RankRequest(actions=[RankableAction(**action) for action in actions], context_features=context)
        assert old.rank(request).reward_action_id in ("a0", "a1")
        operator.delete_evaluation("e/1")
        assert list((state.folder / "jobs" / "evaluations").iterdir()) == []


def test_two_processes_never_train_in_one_folder(state, monkeypatch):
    """An evaluation is deleted while a process trains its candidates, and another process gets one of the same id."""
    system = SimpleNamespace(environ=os.environ, getpid=itertools.count(1).__next__)  # each has the files of a process
    monkeypatch.setattr(subprocess_jobs, "os", system)
    folders = state.folder / "jobs" / "evaluations"
    with ThreadPoolExecutor(2) as pool:
        monkeypatch.setattr(evaluations, "_runner", pool)
        begin = lambda arguments: evaluations.begin(  # noqa: E731
            state, "evaluation", "e", "same id", 0, 2 * 10**12, [{"name": "x", "arguments": arguments}]
        )
        begin("--agent squarecb --precision 1000")
        wait_until(lambda: folders.is_dir() and list(folders.iterdir()), "the first training")
        assert evaluations.remove(state, "evaluation", "e")
        begin(LINEAR)
    with state.store.engine.connect() as connection:
        record = evaluations.find(connection, "evaluation", "e")
    assert record["status"] == "Succeeded", record["result"]
    (x,) = [policy for policy in record["result"]["policies"] if policy["name"] == "x"]
    (folder,) = folders.iterdir()  # the first process found no record of its own, so it removed its files
    assert x["arguments"] == str(settings_of_policy(read_feature_policy(folder / x["folder"] / "policy"))) == LINEAR


def test_a_folder_of_candidates_has_one_owner(state):
    wanted = [{"name": "x", "arguments": LINEAR}]
    (state.folder / "candidates").mkdir()
    with pytest.raises(JobError, match="another process trains the candidates of this evaluation"):
        evaluation(state, wanted)


def test_the_job_trains_anew_with_learning_settings_of_an_operator(state):
    state.rank.store(state.store.engine, LEARNING, {"name": "mine", "arguments": LINEAR})
    result = train_on(JobRequest.from_state(state, {}))
    assert (result.metadata["learning_settings"], result.metadata["gate"]["verdict"]) == (LINEAR, "pass")
    policy = read_feature_policy(state.require_registry().resolve(2))
    assert len(policy.learned_events) == ROUNDS // 2
    state.require_registry().promote(2)
    again = train_on(JobRequest.from_state(state, {})).metadata  # the champion has these settings, so it goes on
    assert (again["version"], again["from"]) == (3, 2)
    assert "learning_settings" not in again
    assert len(read_feature_policy(state.require_registry().resolve(3)).learned_events) == ROUNDS * 3 // 4


def test_a_champion_that_learned_an_export_learns_the_rest(tmp_path):
    """The way of the how-to: export, train, register, promote; the weekly job and the evaluation go on from there."""
    (tmp_path / "registry").mkdir()
    log = tiny_log(900, seed=9, name="new")
    with open_state(tmp_path / "registry", None, SETTINGS) as state:
        store(state, log.take(0, 400, "first"))
        export_ranks(state.store.engine, stored_reward(state.store.engine), tmp_path / "log")
        train_feature_policy(read_feature_log(tmp_path / "log"), tiny_schema(), "squarecb", tmp_path / "policy")
        registry = state.require_registry()
        registry.register(tmp_path / "policy")
        registry.promote(1, ungated=True)
        store(state, log.take(400, 900, "later"))
        result = train_on(JobRequest.from_state(state, {}))
        assert (result.status, result.records) == ("done", 250)
        assert len(read_feature_policy(registry.resolve(2)).learned_events) == 650
        days = estimate_days(JobRequest.from_state(state, {"days": 365.0}))
    assert "no ranked event" in days.metadata["no_verdict"]  # they are older than a year


def test_an_evaluation_leaves_out_what_the_champion_learned(tmp_path):
    log = tiny_log(900, seed=9, name="new")
    with serving(tmp_path, tiny_policy(log=log.take(0, 400, "first"))) as state:
        store(state, log)
        parameters = {"kind": "evaluation", "since": 0, "until": 2 * 10**12, "version": 1}
        result = evaluate_ranks(JobRequest.from_state(state, parameters)).metadata
    assert result["notes"] == ["400 of 900 ranks are left out: the champion learned them"]
    assert result["policies"][0]["value"] == pytest.approx(log.reward[400:].mean())


def test_a_better_version_is_rolled_out_where_the_settings_say_so(tmp_path):
    settings = replace(SETTINGS, jobs=replace(SETTINGS.jobs, auto_rollout=True))
    with serving(tmp_path, poor_policy(), settings) as state:
        store(state, tiny_log(ROUNDS, seed=9, name="new"))
        result = subprocess_jobs.retrain(state, {})
        assert (result.metadata["version"], result.metadata["gate"]["verdict"]) == (2, "pass")
        assert result.metadata["rollout"] == "started"
        routing = state.require_registry().routing()
        assert (routing.champion, routing.challenger) == (1, 2)
        assert routing.traffic_fraction > 0
        assert state.models.live.challenger.number == 2
        again = subprocess_jobs.retrain(state, {"min_interactions": 10})
        assert again.metadata["rollout"].startswith("not started: rollout 1 of version 2 is running")
    with pytest.raises(ConfigError):
        replace(SETTINGS.jobs, auto_rollout="perhaps")
