"""Sessions of a policy of single rounds: the lists, the exact log, and a session policy that learns from them."""

import json

import numpy as np
import pytest
from client_helpers import ask, refusal
from sqlalchemy import insert, select
from synthetic_session_logs import eagerly
from tiny_policies import write_tiny
from trained_policies import miniature_split
from trained_policies import trained as trained_folder
from unlimited import UNLIMITED

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_ingest import IngestConfig
from recpolicy.data.session_log_files import SESSIONS, read_sessions
from recpolicy.evaluation.gate import GateConfig
from recpolicy.inference.predictor import load_policy
from recpolicy.inference.session_replay import moments
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.export import LogPolicy
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.db.session_export import SessionExportOptions, export_sessions
from recpolicy.server.lifespan import open_state
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.recommend import choose
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.training import tensorflow_export
from recpolicy.workflows.gating import gate_candidate
from recpolicy.workflows.policy_estimation import estimate, read_evaluation_log
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import ingest_session_log, read_log

DAYS_AGO = now_ms() - 3 * 86_400_000
EXPLORING = ExplorationConfig(share=0.5, top=0)


@pytest.fixture
def app(tmp_path):
    """A server of a policy of single rounds, of the items 101 to 111."""
    with open_state(write_tiny(tmp_path / "policy"), tmp_path / "state", UNLIMITED) as state:
        yield make_app(state)


def recommend(app, history=None, user=3, **fields):
    shown = None if history is None else [{"item": item, "liked": True} for item in history]
    body = {"user": user, "k": 2, "exclude_rated": False, "history": shown, **fields}
    return ask(app, "POST", "/v1/recommend", body)


def items_of(answer):
    assert answer.status_code == 200, answer.text
    return [item["item_id"] for item in answer.json()["items"]]


def test_a_bandit_leaves_out_what_a_named_session_has_shown_and_the_server_checks_the_history(app):
    first = items_of(recommend(app, [], session_id="s"))
    answer = recommend(app, first, session_id="s")
    assert not set(items_of(answer)) & set(first)
    assert answer.json()["session"] == {"id": "s", "step": 2}
    conflict = refusal(recommend(app, first[:1], session_id="s"), 409, "session_conflict")
    assert conflict.startswith("session_id s: the history has 1 items, but the session was at step 2 already")
    assert "another user" in refusal(recommend(app, first, user=4, session_id="s"), 409, "session_conflict")
    assert "item 0 of" in refusal(recommend(app, [*first[::-1], 101], session_id="s"), 409, "session_conflict")
    with app.state.server.store.engine.connect() as connection:
        rows = connection.execute(select(events.c.step, events.c.history).order_by(events.c.seq)).all()
    assert [(row.step, len(row.history)) for row in rows] == [(0, 0), (2, 8)]


def test_a_bandit_takes_no_history_without_a_session_id(app):
    assert "or name the session by `session_id`" in refusal(recommend(app, [101]), 422, "invalid_value")


class Server:
    """Lists of a policy of single rounds, stored as of three days ago."""

    def __init__(self, folder, tmp_path, engine):
        self.registry, self.engine = Registry(tmp_path / "registry"), engine
        self.registry.register(folder, gate={"verdict": "pass"})
        self.registry.promote(1)
        self.policy = load_policy(self.registry.resolve(1))
        self.live = LiveState(LoadedVersion(self.policy.scorer, 1))

    def choose(self, session, shown=(), user=1, k=1, like=None, **fields):
        """Choose a list after items and likes; store and return its event, and the reward of its first item."""
        history = [{"item": item, "liked": liked} for item, liked in shown]
        ids = self.policy.artifact.users["user_id"].tolist()
        body = {"user": ids[user], "k": k, "history": history, "session_id": session, **fields}
        event = choose(self.live, RecommendRequest.model_validate(body), EXPLORING).event
        event = event._replace(time=DAYS_AGO + 1000 * len(shown))
        row = {name: getattr(event, name) for name in ("user_key", "version", "variant", "rollout", "explored")}
        row |= {"event_id": event.id, "position": 0, "time": event.time, "online": True}
        with transaction(self.engine) as connection:
            insert_events(connection, [event])
            if like is not None:
                connection.execute(insert(rewards).values(**row, reward=5.0 if like else 1.0))
        return event

    def play(self, session, user, rng, steps=4):
        """Show items one by one; the user likes half of them and leaves after a third."""
        shown = []
        while len(shown) < steps:
            liked = bool(rng.random() < 0.5)
            event = self.choose(session, shown, user, like=liked)
            shown.append((json.loads(event.item_ids)[0], liked))
            if rng.random() < 1 / 3:
                break
        return shown

    def export(self, out, **options):
        done = export_sessions(self.engine, LogPolicy(self.registry), SessionExportOptions(out, **options))
        log = read_sessions(out / SESSIONS, IdVocabulary.from_policy(self.policy)) if done.sessions else None
        return done, log


@pytest.fixture
def server(tmp_path, engine):
    return Server(write_tiny(tmp_path / "tiny"), tmp_path, engine)


def test_the_log_of_a_bandit_has_its_exact_propensities_among_what_each_step_could_show(server, tmp_path):
    rng = np.random.default_rng(0)
    played = [server.play(f"s{number:02d}", number % 7, rng) for number in range(40)]
    done, log = server.export(tmp_path / "log")
    assert (done.sessions, done.steps, done.left_out) == (40, sum(map(len, played)), {})
    ids = server.policy.artifact.items["item_id"].to_numpy()
    steps = [step for session in played for step in session]
    assert list(zip(ids[log.item].tolist(), log.liked.tolist(), strict=True)) == steps
    assert (log.reward.tolist(), log.scale) == ([float(liked) for _, liked in steps], (0.0, 1.0))
    prob = np.empty(len(log))
    for moment in moments(server.policy.artifact, log):  # from the log alone: half greedy, half uniform
        score = np.where(moment.allowed, moment.estimate.score, -np.inf)
        greedy = score.argmax(axis=1) == moment.arm
        prob[moment.row] = 0.5 * greedy + 0.5 / moment.allowed.sum(axis=1)
    np.testing.assert_allclose(prob, np.exp(log.log_propensity), rtol=1e-12)


def test_a_session_of_a_bandit_is_cut_after_so_many_items(server, tmp_path):
    shown = []
    for _ in range(3):
        shown.append((json.loads(server.choose("long", shown).item_ids)[0], False))
    server.choose("short")
    _, log = server.export(tmp_path / "log", max_steps=2)
    assert log.step.tolist() == [0, 1, 0]
    assert log.ended.tolist() == [False, False, True]
    assert server.export(tmp_path / "whole")[1].ended.tolist() == [False, False, True, True]
    with pytest.raises(ConfigError, match="max_steps is 0; expected 1 or more"):
        server.export(tmp_path / "none", max_steps=0)


def test_sessions_without_a_history_are_left_out_whatever_their_length(server, tmp_path):
    """Else the log would have the sessions whose users left early, and no others."""
    server.choose("one", history=None)
    server.choose("two", history=None)
    server.choose("two", history=None)
    server.choose("good")
    done, log = server.export(tmp_path / "log")
    assert (set(log.session), done.left_out) == ({"good"}, {"no_history": 2})


CHAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 4, "batch_size": 16}


@pytest.mark.parametrize("agent", ["offpolicy_actor_critic", "behavior_cloning"])
def test_a_session_policy_learns_from_the_traffic_of_a_bandit_and_is_evaluated_on_it(
    agent, tmp_path, engine, monkeypatch
):
    monkeypatch.setattr(tensorflow_export, "write_saved_models", lambda *_: None)
    server, rng = Server(trained_folder("linucb"), tmp_path, engine), np.random.default_rng(1)
    users = len(server.policy.artifact.users)
    for number in range(60):
        server.play(f"s{number:02d}", number % users, rng)
    server.export(tmp_path / "log", max_steps=4)
    tables = IdVocabulary.from_policy(server.policy)
    ingest_session_log(tmp_path / "log", tmp_path / "parts", tables, IngestConfig(evaluation_share=0.3))
    with eagerly():
        new = train(
            agent, miniature_split(), tmp_path / "new", config=CHAIN, agent_config={"layers": (8,)},
            log=read_log(tmp_path / "parts", tables),
        )  # fmt: skip
    later = read_evaluation_log(new, tmp_path / "parts", server.policy)
    assert len(later.length) == 18  # three of ten
    result = estimate(new, later, server.policy).as_dict()
    assert result["logged_value"] == later.reward.sum() / 18
    assert result["estimators"]["per_decision_dr"]["diagnostics"]["rounds"] == 18
    assert "per_decision_dr" in result["differences"]
    verdict = gate_candidate(new, None, later, server.policy, GateConfig())
    assert verdict.verdict == "no_verdict"  # of 18 sessions
    with pytest.raises(DataError, match="learned"):
        estimate(new, read_log(tmp_path / "parts", tables))
