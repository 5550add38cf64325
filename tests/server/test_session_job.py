"""The training job of a session policy: from sessions that the server logged to a registered version."""

import json
from pathlib import Path

import numpy as np
import pytest
from synthetic_session_logs import eagerly
from trained_policies import miniature_split

from recpolicy.data.session_ingest import split_sessions
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.schema import events
from recpolicy.server.jobs.evaluate_worker import estimate_days
from recpolicy.server.jobs.retrain_worker import LOG_UNTIL, train_on
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.lifespan import open_state
from recpolicy.server.recommend import choose
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.server.settings import Settings
from recpolicy.training import tensorflow_export
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import simulate_session_log

TRAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 4, "batch_size": 16, "total_timesteps": 256}
EXPLORING = ExplorationConfig(share=0.9, top=0)
BEGIN = now_ms() - 5 * 86_400_000


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    with eagerly():
        yield


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A server of a policy that has learned from a log of 20 sessions."""
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    log = simulate_session_log(miniature_split(), tmp_path / "log", config={"sessions": 20}, train=TRAIN)
    config = {"layers": (8,)}
    train("topk_reinforce", miniature_split(), tmp_path / "policy", config=TRAIN, agent_config=config, log=log)
    with open_state(tmp_path / "policy", tmp_path / "state", Settings()) as state:
        yield state


def serve(state, sessions):
    """Store sessions of three items, a minute apart, of which the users like the first."""
    users = state.models.live.champion.scorer.artifact.tables.user_ids
    for number in range(sessions):
        shown = []
        for step in range(3):
            body = {
                "user": users[number % len(users)], "k": 1, "session_id": f"s{number}", "exclude_rated": False,
                "history": [{"item": item, "liked": place == 0} for place, item in enumerate(shown)],
            }  # fmt: skip
            event = choose(state.models.live, RecommendRequest.model_validate(body), EXPLORING).event
            shown += json.loads(event.item_ids)
            with transaction(state.require_store().engine) as connection:
                insert_events(connection, [event._replace(time=BEGIN + 60_000 * number + step)])


def request(state, **parameters):
    request = JobRequest.from_state(state, parameters)
    Path(request.folder).mkdir(parents=True, exist_ok=True)
    return request


def test_a_training_learns_the_earlier_sessions_once_and_compares_on_the_later(state):
    serve(state, 40)
    skipped = train_on(request(state, min_interactions=121))
    assert (skipped.status, skipped.metadata["reason"]) == (
        "skipped", "120 steps of complete sessions; expected 121"
    )  # fmt: skip
    result = train_on(request(state, min_interactions=120, min_evaluation_rounds=24))
    assert result.status == "done", result.metadata
    assert result.metadata["export"]["sessions"] == 40
    assert result.records == 96  # of 32 sessions; 8 are for the comparison
    version = state.models.registry.version(2)
    assert version.lineage[LOG_UNTIL] == BEGIN + 60_000 * 31 + 2
    assert version.lineage["trained_from"] == 1
    gate = result.metadata["gate"]
    assert gate["verdict"] in ("fail", "no_verdict")  # eight sessions of eight users
    assert any(reason.startswith("effective sample size") for reason in gate["reasons"])
    record = state.models.registry.version(2).gate
    assert record["verdict"] == gate["verdict"]
    assert [row["name"] for row in record["criteria"] if row["name"].startswith("gain over incumbent")]
    json.dumps(result.metadata, allow_nan=False)
    state.models.registry.promote(2, ungated=True)
    again = train_on(request(state, min_interactions=120))
    assert (again.status, again.records) == ("skipped", 24)  # the eight sessions of the comparison
    go_on(state, "s0")
    policies = estimate_days(request(state, days=7)).metadata["policies"]
    assert policies["logged"]["sessions"] == 9
    assert policies["logged"]["value"] == 1.0  # of the eight that version 2 has not learned


def go_on(state, session_id):
    """Store another list of a session, an hour after all others: it is exported again."""
    with transaction(state.require_store().engine) as connection:
        rows = connection.execute(events.select().where(events.c.session_id == session_id).order_by("step")).all()
        shown = [json.loads(row.item_ids)[0] for row in rows]
        history = [{"item": item, "liked": place == 0} for place, item in enumerate(shown)]
        body = {"user": json.loads(rows[0].user_key), "k": 1, "session_id": session_id, "history": history}
        body["exclude_rated"] = False
        event = choose(state.models.live, RecommendRequest.model_validate(body), EXPLORING).event
        insert_events(connection, [event._replace(time=BEGIN + 3 * 3_600_000)])


def test_the_evaluation_estimates_the_champion_on_complete_sessions(state):
    assert estimate_days(request(state, days=7)).metadata["no_verdict"] == (
        "no complete sessions that the champion has not learned"
    )
    serve(state, 40)
    policies = estimate_days(request(state, days=7)).metadata["policies"]
    logged = policies["logged"]
    assert (logged["sessions"], logged["steps"], logged["unit"]) == (40, 120, "session")
    assert logged["value"] == 1.0  # the first item of each session is liked
    assert policies["champion"]["policy_mode"] == "greedy"
    json.dumps(policies, allow_nan=False)


def test_jobs_have_the_gap_of_sessions(state):
    assert request(state).settings["sessions"] == {"gap_minutes": 30.0}


def test_the_latest_sessions_are_for_the_comparison(tmp_path):
    log = simulate_session_log(miniature_split(), tmp_path / "log", config={"sessions": 20}, train=TRAIN)
    train_part, evaluation = split_sessions(log, 0.2)
    assert len(train_part.length) + len(evaluation.length) == 20
    assert train_part.time.max() < evaluation.time[evaluation.start[1:] - 1].min()
    assert not np.isin(evaluation.session, train_part.session).any()
