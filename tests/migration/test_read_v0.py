"""Files from before the renaming for 0.1.0 still work: each kind is read, gives its values, and is used.

`v0/` holds what the old code wrote, `v0/expected.json` what it computed from it. Tests change copies only.
"""

import asyncio
import hashlib
import json
import math
import shutil
import sqlite3
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import httpx
import numpy as np
import pytest
from sqlalchemy import func, select

from recpolicy.agents import agent_entry
from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.ratings_store import load_saved_ratings, load_saved_split
from recpolicy.inference import scorer
from recpolicy.inference.artifact import migrate_metadata, read_inference_artifact
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.inference.scorer import Scorer
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.models.rating_model_io import load_rating_model
from recpolicy.models.rating_models import RATING_MODELS
from recpolicy.registry.artifact_kinds import verify
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.console.queries import read_card
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.schema import metadata
from recpolicy.server.lifespan import open_state, state_folder
from recpolicy.server.online.checkpoints import checkpoint_folder, read_current
from recpolicy.server.online.learner import OnlineLearner
from recpolicy.server.rollout import controller
from recpolicy.server.settings import OnlineConfig, RolloutConfig, Settings
from recpolicy.training import tensorflow_export
from recpolicy.workflows.evaluation_files import read_candidate_evaluation
from recpolicy.workflows.gating import gate_evaluation, read_gate, register
from recpolicy.workflows.held_out_evaluation import evaluate
from recpolicy.workflows.interaction_logs import ingest_log, read_rounds
from recpolicy.workflows.policy_estimation import estimate, read_evaluation_log
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.retraining import retrain
from recpolicy.workflows.session_logs import read_log, simulate_session_log
from recpolicy.workflows.session_settings import SessionTrainConfig
from recpolicy.workflows.slate_logs import read_slate_log
from recpolicy.workflows.training_data import training_data

V0 = Path(__file__).parent / "v0"
EXPECTED = json.loads((V0 / "expected.json").read_text())
DIGEST = "c5ddcce854ced3d2b473dbd53641169e57846e9814af2ee10d4c1f991d799dfb"
POLICIES = (
    "boltzmann", "dqn", "linucb", "linucb-log", "linucb-retrained", "neural_linucb", "ppo", "q_learning",
)  # fmt: skip
SESSION_POLICIES = ("dqn", "ppo", "q_learning")
SETTINGS = json.loads((V0 / "settings.json").read_text())
"""Defaults of all settings that old files may hold; no default has changed since."""
USERS = [1, 7]
KEYS = {role: "rp_" + role[0] * 43 for role in ("operator", "reader", "client")}
RESAMPLES = {"resamples": 50}


def close(found, expected, tolerance=2e-5):
    np.testing.assert_allclose(np.asarray(found, float).ravel(), expected, rtol=tolerance, atol=tolerance)


@cache
def policy(name):
    return load_policy(V0 / "policies" / name)


@cache
def split():
    return load_saved_split(V0 / "ratings")


@pytest.fixture(autouse=True)
def without_saved_models(monkeypatch):
    """No SavedModels: nothing here reads them, and writing them takes seconds."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)


def test_nobody_edited_the_old_files():
    digest = hashlib.sha256()
    for path in sorted(V0.rglob("*")):
        if path.is_file() and path.name not in ("README.md", ".lock"):
            digest.update(str(path.relative_to(V0)).encode() + path.read_bytes())
    assert digest.hexdigest() == DIGEST


# Ratings and rating models


def test_ratings():
    ratings, expected = load_saved_ratings(V0 / "ratings"), EXPECTED["ratings"]
    assert (len(ratings), ratings.digest) == (expected["rows"], expected["digest"])
    # In the order of the old files: user ids, attributes, item ids, titles, years, genres.
    assert ratings.users.iloc[0, 0] == 1
    assert "age" in ratings.users
    assert ratings.items.columns[0] == "item_id"
    assert list(ratings.items.columns[1:4]) == ["title", "year", "genres"]


def test_split_of_ratings():
    assert split().train.digest == EXPECTED["ratings"]["fit"]
    assert split().test.digest == EXPECTED["ratings"]["test"]


def test_rating_model():
    model, expected = load_rating_model(V0 / "rating-model"), EXPECTED["rating_model"]
    assert (model.name, model.seed) == (expected["name"], expected["seed"])
    assert sorted(model.config.values()) == sorted(expected["config"].values())
    close(model.mean[:2, :3], expected["corner"])
    close(model.noise_std, expected["noise_std"])


# Policies


@pytest.mark.parametrize("name", POLICIES)
def test_policy_predicts_and_recommends(name):
    loaded, expected = policy(name), EXPECTED["policies"].get(name)
    verify(V0 / "policies" / name)
    if name == "linucb-retrained":
        close(loaded.predict(USERS)["value"], EXPECTED["chain"]["rating"])
        return
    assert loaded.artifact.agent == expected["agent"]
    assert loaded.sequential == expected["sequential"] == (name in SESSION_POLICIES)
    frame = loaded.predict(USERS)
    # An old `rating` is the policy's own estimate, which is its value today; session policies had the rating model's.
    close(frame["rating" if loaded.sequential else "value"], expected["rating"])
    close(frame["probability"], expected["propensity"])
    # No old file says that its rewards were real, so its std is the rating model's.
    close(frame["std"], loaded.artifact.rating_std[[0, 6]].ravel())
    best = loaded.recommend(USERS, k=4)
    assert best.item_id.tolist() == expected["recommended"]
    close(best.probability, expected["unrated_propensity"])


@pytest.mark.parametrize("name", POLICIES)
def test_policy_is_read_lean_as_well(name):
    answer = Scorer(read_inference_artifact(V0 / "policies" / name)).predict_one(1)
    close(answer.rating, policy(name).predict([1]).rating)


@pytest.mark.parametrize("name", SESSION_POLICIES)
def test_session_policy_recommends_after_a_history(name):
    expected = EXPECTED["policies"][name]
    history = {1: [(item, liked) for item, liked in expected["history"]]}
    best = policy(name).recommend(1, k=4, history=history, exclude_rated=False)
    assert best.item_id.tolist() == expected["after_history"]
    close(best.probability, expected["propensity_after_history"])
    close(best.session_value.iloc[0], expected["value_after_history"])


@pytest.mark.parametrize("name", ["boltzmann", "linucb", "linucb-log", "neural_linucb"])
def test_policy_folds_in_a_new_user(name, monkeypatch):
    """The expected figures are from before the fold-in counted the uncertainty of the items."""
    monkeypatch.setattr(scorer, "item_std", lambda _: None)
    best = Policy(policy(name).artifact).recommend("new", k=4, fold_in={"new": {3: 5.0, 10: 1.0}})
    assert best.item_id.tolist() == EXPECTED["policies"][name]["folded_in"]
    close(best["value"], EXPECTED["policies"][name]["folded_in_rating"])


def test_policy_is_evaluated_on_its_split():
    result = evaluate({"linucb": policy("linucb")}, split())
    close(result.evaluation.policies["linucb"].held_out_choice.value, EXPECTED["held_out_raw"])


@pytest.mark.parametrize(
    ("name", "key"),
    [("linucb", "retrained"), ("neural_linucb", "retrained_neural"), ("boltzmann", "retrained_boltzmann")],
)
def test_policy_is_retrained_from_its_saved_state_on_old_rounds(name, key, tmp_path):
    old = V0 / "policies" / name
    rounds = read_log(V0 / "logs" / "rounds", IdVocabulary.from_policy(policy(name)))
    new = retrain(old, rounds, tmp_path / "new", epochs=1)
    # linucb forgets (0.999), and forgetting now brings back the prior.
    close(new.predict(USERS)["value"], EXPECTED[key]["rating"], 1e-2 if name == "linucb" else 1e-4)
    verify(tmp_path / "new")


def test_retrained_policy_is_retrained_again(tmp_path):
    """Its lineage has a parent, and it learned from a log, from the old code."""
    rounds = read_log(V0 / "logs" / "rounds", IdVocabulary.from_policy(policy("linucb-log")))
    new = retrain(V0 / "policies" / "linucb-retrained", rounds, tmp_path / "new")
    (first,) = EXPECTED["chain"]["parents"]
    assert len(new.metadata["parents"]) == 2
    assert first in new.metadata["parents"][0].values()
    assert EXPECTED["chain"]["log"] in new.metadata["parents"][1].values()


@pytest.mark.parametrize("name", ["linucb-export", "linucb-slates"])
def test_policy_that_learned_from_a_log(name):
    expected = EXPECTED["learned_from"][name]
    close(policy(name).predict(USERS)["value"], expected["rating"])
    assert set(expected["about"].values()) <= {
        value for value in policy(name).metadata.values() if isinstance(value, str | int)
    }


def test_exported_rounds_that_a_policy_has_learned_are_passed_over(tmp_path):
    rounds = read_log(V0 / "export-rounds", IdVocabulary.from_policy(policy("linucb-export")))
    assert rounds.exporter is not None
    assert rounds.features is not None
    with pytest.raises(DataError, match=r"export-rounds.*all of its 43 training rounds"):
        retrain(V0 / "policies" / "linucb-export", rounds, tmp_path / "new")


def test_slates_that_a_policy_has_learned_are_refused():
    loaded = policy("linucb-slates")
    log = read_slate_log(V0 / "logs" / "slates-list", IdVocabulary.from_policy(loaded))
    with pytest.raises(DataError, match="learned from this log"):
        estimate(loaded, log, config=RESAMPLES)


def test_session_policy_logs_sessions_in_the_world_of_its_training(tmp_path):
    log = simulate_session_log(split(), tmp_path / "log", logging_policy=policy("dqn"), config={"sessions": 20}, seed=1)
    assert len(np.unique(log.session)) == 20
    assert set(log.item) <= set(policy("dqn").artifact.action_items)


@pytest.mark.parametrize("name", SETTINGS["agents"])
def test_settings_of_every_agent(name):
    entry = agent_entry(name)
    metadata = migrate_metadata({"config": {"agent": SETTINGS["agents"][name]}})
    assert build(entry.config, metadata["config"]["agent"], name) == entry.config()


@pytest.mark.parametrize("name", SETTINGS["rating_models"])
def test_settings_of_every_rating_model(name):
    metadata = migrate_metadata(
        {"rating_model": {"name": name, "seed": 0}, "config": {"rating_model": SETTINGS["rating_models"][name]}}
    )
    kind = RATING_MODELS[metadata["rating_model"]["name"]]
    assert build(kind.config, metadata["config"]["rating_model"], name) == kind.config()


@pytest.mark.parametrize(("name", "config"), [("train", TrainConfig), ("session_train", SessionTrainConfig)])
def test_settings_of_trainings(name, config):
    settings = migrate_metadata({"config": {"train": SETTINGS[name]}})["config"]["train"]
    found, default = as_dict(build(config, settings, name)), as_dict(config())
    # The interval of checkpoints may have another default: its unit has changed.
    assert {key for key in found if found[key] != default[key]} <= {"checkpoint_every_steps"}


def test_plan_of_a_rollout():
    assert build(RolloutConfig, SETTINGS["rollout"], "rollout") == RolloutConfig()


# Logs


def test_raw_log_is_ingested(tmp_path):
    report = ingest_log(
        V0 / "logs" / "raw", tmp_path / "rounds", IdVocabulary.from_ratings(split().train), {"evaluation_share": 0.3}
    )
    expected = EXPECTED["raw"]["report"]
    assert [report.events, report.joined, report.waiting] == [
        expected["events"], expected["joined"], expected["waiting"]
    ]  # fmt: skip
    for name, rounds in EXPECTED["raw"]["rounds"].items():
        for folder in (tmp_path, V0 / "logs"):  # ingested now, and ingested by the old code
            log = read_rounds(folder / "rounds" / name, IdVocabulary.from_ratings(split().train))
            assert (log.digest, len(log)) == (rounds["digest"], rounds["count"])


def test_old_policy_is_estimated_on_old_rounds():
    loaded = policy("linucb")
    result = estimate(loaded, V0 / "logs" / "rounds", policy("boltzmann"), config=RESAMPLES).as_dict()
    values = [result["estimators"][name]["value"] for name in sorted(EXPECTED["ope_rounds"])]
    close(values, [EXPECTED["ope_rounds"][name] for name in sorted(EXPECTED["ope_rounds"])])
    close(result["logged_value"], EXPECTED["ope_rounds_logged"])


def test_old_session_policy_is_estimated_on_old_sessions():
    loaded = policy("ppo")
    sessions, expected = read_evaluation_log(loaded, V0 / "logs" / "sessions"), EXPECTED["sessions"]
    assert (sessions.digest, len(sessions), sessions.liked.sum()) == (
        expected["digest"], expected["steps"], expected["likes"],
    )  # fmt: skip
    result = estimate(loaded, sessions, policy_mode="exploring", config=RESAMPLES)
    values = {name: one["value"] for name, one in result.as_dict()["estimators"].items()}
    assert values == pytest.approx(EXPECTED["ope_sessions"], rel=1e-5)


def test_old_policy_is_estimated_on_old_slates():
    log = read_slate_log(V0 / "logs" / "slates", IdVocabulary.from_policy(policy("linucb")))
    expected = EXPECTED["slates"]
    assert (log.digest, len(log), log.reward.sum()) == (expected["digest"], expected["pages"], expected["reward"])
    result = estimate(policy("linucb"), log, config=RESAMPLES)
    values = {name: one["value"] for name, one in result.as_dict()["estimators"].items()}
    assert values == pytest.approx(EXPECTED["ope_slates"], rel=1e-5)


def test_slates_are_ingested(tmp_path):
    report = ingest_log(V0 / "logs" / "slates-list", tmp_path / "rounds", IdVocabulary.from_ratings(split().train))
    assert report.events == EXPECTED["slates_list"]["report"]["events"]
    shutil.copytree(V0 / "logs" / "slates-rounds", tmp_path / "old" / "rounds")
    now, then = (
        read_log(folder / "rounds", IdVocabulary.from_ratings(split().train)) for folder in (tmp_path, tmp_path / "old")
    )
    assert now.digest == then.digest
    assert now.slate_digest == then.slate_digest
    assert now.slate_digest is not None


def test_imported_log_is_ingested(tmp_path):
    report, expected = ingest_log(V0 / "logs" / "imported", tmp_path / "rounds"), EXPECTED["imported"]
    assert report.joined == expected["report"]["joined"]
    parts = load_saved_split(tmp_path / "rounds" / "ratings")
    assert (parts.train.digest, parts.test.digest) == (expected["fit"], expected["test"])


def test_training_data_of_an_ingested_log():
    """Its split was saved under the name that the old code had for it."""
    parts = training_data(log=V0 / "logs" / "imported-rounds")
    assert (parts.train.digest, parts.test.digest) == (EXPECTED["imported"]["fit"], EXPECTED["imported"]["test"])
    rounds = read_log(V0 / "logs" / "imported-rounds", IdVocabulary.from_ratings(parts.train))
    assert len(rounds) == EXPECTED["imported"]["report"]["training"]
    assert parts.train.source["source"].endswith("ratings")


# Evaluation, gate, registry


def test_evaluation_of_a_candidate_is_gated():
    read_candidate_evaluation(V0 / "evaluation" / "judgement.json")
    result = gate_evaluation(V0 / "evaluation" / "judgement.json", {"margin": 100.0})
    expected = EXPECTED["gate_strict"]["figures"]
    assert result.verdict != "pass"
    # Numbers only: the names of criteria may change. The limit of `margin` was 0 there, and there was no tail index.
    values = {criterion.name: criterion.value for criterion in result.criteria}
    assert math.isnan(values.pop("tail index of the weights"))
    assert sorted(values.values()) == pytest.approx(sorted(expected.values()))


def test_gate_record():
    record = read_gate(V0 / "evaluation" / "gate.json")
    assert record["verdict"] == EXPECTED["gate"]["verdict"]
    assert EXPECTED["gate"]["content"] in record["policy"].values()


def test_gated_policy_is_registered(tmp_path):
    result = register(
        V0 / "policies" / "linucb", V0 / "evaluation" / "gate.json", tmp_path / "kept", str(tmp_path / "registry")
    )
    assert (result.version, result.champion) == (1, 1)
    close(load_policy(tmp_path / "kept").predict(USERS)["value"], EXPECTED["policies"]["linucb"]["rating"])
    assert Registry(tmp_path / "registry").version(1).gate["verdict"] == "pass"


def test_simulator_card():
    card, expected = read_card(V0 / "evaluation"), EXPECTED["card"]
    assert (card["passed"], card["world"], card["seed"]) == (expected["passed"], expected["world"], expected["seed"])
    assert len(card["gates"]) == len(expected["gates"])


@pytest.fixture
def registry_folder(tmp_path):
    """A copy of the old registry, which is the state folder of its server as well."""
    return Path(shutil.copytree(V0 / "registry", tmp_path / "registry", ignore=shutil.ignore_patterns("spool")))


def test_registry_lists_and_resolves(registry_folder):
    registry = Registry(registry_folder)
    assert registry.aliases() == EXPECTED["registry"]["aliases"]
    first, second = registry.versions()
    assert (first.agent, first.gate["verdict"], second.gate) == ("linucb", "pass", None)
    assert first.note["by"] == "somebody"
    routing = registry.routing()
    assert (routing.champion, routing.challenger) == (1, 2)
    close(load_policy(registry.resolve("champion")).predict(USERS)["value"], EXPECTED["policies"]["linucb"]["rating"])
    # Seven lines of changes and two of registrations, besides what the server did.
    assert len(registry.audit()) == EXPECTED["registry"]["audit_lines"]


def test_registry_goes_on(registry_folder):
    registry = Registry(registry_folder)
    registry.clear_challenger()
    assert registry.register(V0 / "policies" / "linucb-retrained", gate={"verdict": "pass"}).number == 3
    registry.promote(3)
    assert registry.aliases() == {"champion": 3, "previous": 1, "challenger": None}
    registry.roll_back()
    assert registry.version("champion").number == 1
    assert len(registry.audit()) == EXPECTED["registry"]["audit_lines"] + 4


def test_registry_knows_an_artifact_that_it_has(registry_folder):
    assert Registry(registry_folder).register(V0 / "policies" / "linucb").number == 1


# The server


@contextmanager
def serving(folder):
    """The app over an old registry with its state."""
    settings = Settings(exploration=ExplorationConfig(share=0.0), online=OnlineConfig(grace_seconds=0.0))
    with open_state(folder, None, settings) as state:
        yield make_app(state), state


def ask(app, method, path, body=None, role=None):
    """One request; the body of the answer, which must not be an error."""

    async def send():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            headers = {} if role is None else {"Authorization": f"Bearer {KEYS[role]}"}
            return await client.request(method, path, json=body, headers=headers)

    answer = asyncio.run(send())
    assert answer.is_success, answer.text
    return answer.json()


def counts(state):
    """Rows by table."""
    with state.store.engine.connect() as connection:
        return {
            table.name: connection.scalar(select(func.count()).select_from(table)) for table in metadata.sorted_tables
        }


NEW_TABLES = {
    "user_ratings",
    "strategy_profiles",
    "rank_events",
    "action_rows",
    "rank_signals",
    "rank_settings",
    "rank_evaluations",
}
"""Tables of ranks with features, which the old server did not have."""


def test_database_is_upgraded_and_keeps_its_rows(registry_folder):
    before = sqlite3.connect(registry_folder / "server.db")
    assert before.execute("SELECT version_num FROM alembic_version").fetchone() == ("0002",)
    before.close()
    with serving(registry_folder) as (_, state):
        found = {name: number for name, number in counts(state).items() if name not in NEW_TABLES}
        assert sorted(found.values()) == sorted(EXPECTED["tables"].values())
        rows = [table for table in metadata.sorted_tables if table.name == "events"]
        with state.store.engine.connect() as connection:
            (first, *_) = connection.execute(select(rows[0]).order_by(rows[0].c.seq)).mappings()
        assert set(EXPECTED["first_event"].values()) <= {
            value for value in first.values() if not isinstance(value, bytes)
        }


def test_server_answers_from_the_old_registry_and_takes_feedback(registry_folder):
    with serving(registry_folder) as (app, state):
        before = counts(state)
        answer = ask(app, "POST", "/v1/recommend", {"user": 7, "k": 4}, "client")
        items = answer["items"]
        assert len(items) == 4
        ask(
            app, "POST", "/v1/feedback",
            {"event_id": answer["event_id"], "item": items[1]["item_id"], "type": "rating", "value": 4.0}, "client",
        )  # fmt: skip
        after = counts(state)
        assert [after[name] - before[name] for name in ("events", "feedback", "rewards")] == [1, 1, 1]
        rows = ask(app, "POST", "/v1/predict", {"users": [1], "items": [3, 5]}, "client")["rows"]
        close([row["value"] for row in rows], [row["rating"] for row in EXPECTED["predict"]["rows"]])


def test_feedback_on_an_old_event(registry_folder):
    """An event of the old server takes feedback; on what was said before nothing changes."""
    shown = json.loads(EXPECTED["first_event"]["movies"])
    with serving(registry_folder) as (app, state):
        said = {"event_id": EXPECTED["first_event"]["id"], "item": shown[1], "type": "watch_fraction", "value": 0.5}
        answer = ask(app, "POST", "/v1/feedback", said, "client")
        assert "duplicate" in json.dumps(answer)
        before = counts(state)
        ask(app, "POST", "/v1/feedback", {**said, "item": shown[2], "type": "like", "value": None}, "client")
        assert counts(state)["feedback"] == before["feedback"] + 1


def test_admin_pages_show_the_old_rows(registry_folder):
    with serving(registry_folder) as (app, _):
        runs = ask(app, "GET", "/v1/admin/runs", None, "reader")["runs"]
        old = EXPECTED["jobs"]["runs"]
        assert [(one["id"], one["name"], one["status"]) for one in runs] == [
            (one["id"], one["name"], one["status"]) for one in old
        ]
        assert runs[0]["metadata"] == {"error": "of the test"}
        drift = ask(app, "GET", "/v1/admin/drift", None, "reader")["run"]
        assert drift["id"] == EXPECTED["drift"]["run"]["id"]
        keys = ask(app, "GET", "/v1/admin/keys", None, "operator")["keys"]
        assert [one["role"] for one in keys] == [one["role"] for one in EXPECTED["keys"]["keys"]]
        audit = ask(app, "GET", "/v1/admin/audit", None, "reader")["audit"]
        assert len(audit) == len(EXPECTED["audit"]["audit"])
        versions = ask(app, "GET", "/v1/admin/versions", None, "reader")["versions"]
        assert [one["number"] for one in versions] == [1, 2]
        assert versions[0]["metrics"]
        ask(app, "GET", "/v1/admin/versions/1", None, "reader")
        ask(app, "GET", "/v1/admin/rewards?days=365", None, "reader")
        assert len(ask(app, "GET", "/v1/admin/jobs", None, "reader")["jobs"]) == 9


def test_rollout_of_the_old_server_goes_on(registry_folder):
    with serving(registry_folder) as (app, state):
        rollouts = ask(app, "GET", "/v1/admin/rollouts", None, "reader")["rollouts"]
        assert [one["state"] for one in rollouts] == [one["state"] for one in EXPECTED["rollouts"]["rollouts"]]
        status = controller.status(state)
        assert (status.rollout.challenger, status.rollout.stage) == (2, 0)
        ask(app, "GET", "/v1/admin/rollouts/current", None, "reader")
        assert controller.stop(state, "operator-key").state == "stopped"
        assert Registry(registry_folder).aliases()["challenger"] is None


def test_scheduler_takes_over_the_old_schedules(registry_folder):
    with serving(registry_folder) as (app, state):
        scheduler = app.state.scheduler
        scheduler.tick()
        assert (
            counts(state)["schedules"] == EXPECTED["tables"]["schedules"] + 5
        )  # delete_old_events, two of strategies, new items, and fit_returns


def test_spooled_event_goes_to_the_database(registry_folder):
    shutil.copytree(V0 / "registry" / "spool", registry_folder / "spool")
    with serving(registry_folder) as (app, state):
        for _ in range(50):
            ask(app, "POST", "/v1/recommend", {"user": 7, "k": 1}, "client")
            if not list((registry_folder / "spool").glob("4711-*")):
                break
            asyncio.run(asyncio.sleep(0.1))
        events = next(table for table in metadata.sorted_tables if table.name == "events")
        with state.store.engine.connect() as connection:
            row = connection.execute(select(events).where(events.c.id == EXPECTED["spooled"])).mappings().one()
        assert np.frombuffer(row["context"], np.float32).tolist() == [0, 1, 2]


def test_online_learning_goes_on(registry_folder):
    """The old checkpoint answers, and new rewards are added to it."""
    content = EXPECTED["policies"]["linucb"]["content"]
    assert read_current(checkpoint_folder(registry_folder, content)).counts["learnt"] == 10
    with serving(registry_folder) as (app, state):
        assert state.models.live.champion.policy_digest == EXPECTED["online_content"]
        controller.stop(state, "operator-key")  # nothing is learned while there is a challenger
        state.models.refresh()
        learner = OnlineLearner(state.store.engine, state.models, state.folder, OnlineConfig(grace_seconds=0.0))
        learned = learner.step()
        assert learned > 0  # rewards that came during the rollout
        answer = ask(app, "POST", "/v1/recommend", {"user": 3, "k": 1}, "client")
        ask(app, "POST", "/v1/feedback", {"event_id": answer["event_id"], "type": "rating", "value": 5.0}, "client")
        assert learner.step() == 1
        assert read_current(checkpoint_folder(registry_folder, content)).counts["learnt"] == 11 + learned


def test_export_of_the_old_server_goes_on(registry_folder, tmp_path):
    """A log that the old server exported is appended to, and ingested."""
    out = Path(shutil.copytree(V0 / "export", tmp_path / "export"))
    with serving(registry_folder) as (app, state):
        before = export(state.store.engine, LogPolicy(state.models.registry, 1), ExportOptions(out))
        answer = ask(app, "POST", "/v1/recommend", {"user": 7, "k": 4}, "client")
        ask(app, "POST", "/v1/feedback", {"event_id": answer["event_id"], "type": "like"}, "client")
        after = export(state.store.engine, LogPolicy(state.models.registry, 1), ExportOptions(out))
    assert after.rounds - before.rounds == 4
    assert after.rewards - before.rewards == 1
    report = ingest_log(out, tmp_path / "rounds", IdVocabulary.from_policy(policy("linucb")))
    assert report.joined == after.rewards


def test_state_of_a_served_run(tmp_path):
    """A server of one policy finds the state that the old server left beside it, as RUN.serve."""
    run = Path(shutil.copytree(V0 / "policies" / "linucb", tmp_path / "run"))
    old = tmp_path / "run.serve"
    shutil.copytree(V0 / "registry", old / "registry", ignore=shutil.ignore_patterns("server.db", "spool", "online"))
    shutil.copy(V0 / "registry" / "server.db", old / "server.db")
    with open_state(run, None, replace(Settings(), online=OnlineConfig(enabled=False))) as state:
        assert state.folder == state_folder(run)
        assert len(state.models.registry.versions()) == 2
        assert counts(state)["events"] == EXPECTED["tables"]["events"]
