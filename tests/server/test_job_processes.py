"""Training and evaluation in processes of their own: what they do, what they say when they cannot, and their end."""

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from job_fixtures import get_state
from sqlalchemy import insert
from trained_policies import trained
from tuned_policies import write_tuned
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.jobs import retrain_worker, subprocess_jobs
from recpolicy.server.jobs.evaluate_worker import earned_by_version, estimate_days
from recpolicy.server.jobs.retrain_worker import LOG_UNTIL, new_interactions, train_on
from recpolicy.server.jobs.scheduler import STOP_EVENT
from recpolicy.server.jobs.subprocess_jobs import JobError, JobRequest, run_in_subprocess
from recpolicy.server.lifespan import open_state
from recpolicy.server.recommend import choose
from recpolicy.server.rollout import controller
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.server.settings import JobsConfig, Settings

EXPLORING = ExplorationConfig(share=0.5, top=10)
NOW = now_ms()


@pytest.fixture
def state(tmp_path):
    with open_state(trained("linucb"), tmp_path / "state", Settings()) as state:
        yield state


def serve(state, requests, begin, users=range(1, 41), stars=4.0, **words):
    """Recommend to the users in turn, a second apart, and rate the first place of each."""
    rng = np.random.default_rng(0)
    chosen = [
        choose(state.models.live, RecommendRequest(user=list(users)[n % len(users)], k=3, **words), EXPLORING)
        for n in range(requests)
    ]
    rows = [one.event._replace(time=begin + 1_000 * n) for n, one in enumerate(chosen)]
    with transaction(state.require_store().engine) as connection:
        insert_events(connection, rows)
        for row in rows:
            rating = float(np.clip(stars + rng.integers(-1, 2), 1, 5))
            apply_feedback(
                connection,
                [FeedbackItem(row.id, None, "rating", rating)],
                row.time + 500,
                RewardRules((1.0, 5.0), 10**10),
            )


def request(state, **parameters):
    found = JobRequest.from_state(state, parameters)
    Path(found.folder).mkdir(parents=True, exist_ok=True)
    return found


def test_a_training_registers_a_version_with_its_gate_promotes_nothing_and_learns_nothing_twice(state):
    serve(state, 600, NOW - 700_000)
    result = train_on(request(state, min_interactions=400))
    assert result.status == "done"
    registry = state.models.registry
    assert registry.aliases()["champion"] == 1
    version = registry.version(result.metadata["version"])
    assert version.number == 2
    assert version.gate["verdict"] == result.metadata["gate"]["verdict"] in ("pass", "fail", "no_verdict")
    assert version.gate["policy"]["policy_digest"] == version.policy_digest
    assert (version.lineage["trained_from"], version.lineage["training"]["rows"]) == (1, result.records)
    assert result.records == 480  # 600 rewards, a fifth of them kept for the gate
    assert result.users == 40
    assert result.metadata["export"]["rounds"] == 1_800
    assert NOW - 700_000 < version.lineage[LOG_UNTIL] <= NOW - 700_000 + 480_000
    assert not (Path(request(state).folder) / "retrain").exists()

    registry.promote(2, ungated=True)  # what it learnt from is not learnt from again; what the gate judged by is
    again = train_on(request(state, min_interactions=400))
    assert (again.status, again.records) == ("skipped", 120)


def test_the_training_of_a_tuned_champion_says_that_the_new_version_has_no_layer(tmp_path):
    with open_state(write_tuned(trained("linucb"), tmp_path / "tuned"), tmp_path / "state", Settings()) as state:
        serve(state, 600, NOW - 700_000)
        result = train_on(request(state, min_interactions=400))
        registry = state.models.registry
    assert registry.version(1).layer is not None
    assert registry.version(result.metadata["version"]).layer is None
    assert result.metadata["layer"] == "the champion's tuned layer was left out: tune the new version"


def test_only_users_who_say_enough_count(state):
    serve(state, 40, NOW - 700_000, users=range(1, 5))
    serve(state, 4, NOW - 400_000, users=range(5, 9))
    engine = state.require_store().engine
    assert new_interactions(engine, 0, 2) == (4, 40)
    assert new_interactions(engine, NOW - 690_000, 2) == (4, 30)  # of each user ten ever, the newer ones now
    assert new_interactions(engine, 0, 1) == (8, 44)
    skipped = train_on(request(state, min_interactions=41, min_interactions_per_user=2))
    assert (skipped.status, skipped.users, skipped.records) == ("skipped", 4, 40)
    assert skipped.metadata["reason"].startswith("40 new rewards of users with enough of them; expected 41")
    serve(state, 6, NOW - 300_000, users=range(1_001, 1_004), ratings=[{"item": 1, "rating": 4.0}])
    assert new_interactions(engine, NOW - 350_000, 2) == (3, 6)  # newcomers, described by ratings


def test_newcomers_are_trained_on_by_the_vectors_that_were_seen(state):
    serve(state, 300, NOW - 700_000)
    serve(state, 100, NOW - 700_000, users=range(1_001, 1_021), ratings=[{"item": 1, "rating": 4.0}])
    result = train_on(request(state, min_interactions=400))
    assert (result.status, result.metadata["export"]["left_out"]) == ("done", {})
    assert (result.records, result.users) == (320, 60)  # all newcomers are among the earlier four fifths


def test_a_policy_that_cannot_learn_from_a_log_is_skipped_with_the_reason(state, monkeypatch):
    def refuse(*_, **__):
        raise ConfigError("a baseline never learns")

    monkeypatch.setattr(retrain_worker, "retrain", refuse)
    serve(state, 20, NOW - 700_000, users=range(1, 3))
    result = train_on(request(state, min_interactions=10))
    assert (result.status, result.metadata["reason"]) == ("skipped", "a baseline never learns")
    assert len(state.models.registry.versions()) == 1


def test_what_passed_its_gate_is_rolled_out_only_where_the_settings_say_so(state, monkeypatch):
    started = []

    def start(_, number, actor):
        if number == 4:
            raise ConfigError("another rollout runs")
        started.append((number, actor))

    monkeypatch.setattr(controller, "start", start)
    rolled = replace(state, settings=Settings(jobs=JobsConfig(auto_rollout=True)))
    for one, number, verdict, said in (
        (state, 2, "pass", None), (rolled, 2, "fail", None), (rolled, 3, "pass", "started"),
        (rolled, 4, "pass", "not started: another rollout runs"),
    ):  # fmt: skip
        metadata = {"version": number, "gate": {"verdict": verdict}}
        monkeypatch.setattr(
            subprocess_jobs, "run_in_subprocess", lambda *_, metadata=metadata: JobResult(metadata=metadata)
        )
        assert subprocess_jobs.retrain(one, {}).metadata.get("rollout") == said
    assert started == [(3, "server")]


def test_an_evaluation_says_what_was_earned_and_what_would_have_been(state):
    serve(state, 500, NOW - 700_000)
    result = estimate_days(request(state, days=1.0))
    (row,) = result.metadata["versions"]
    assert (row["version"], row["variant"], row["rewards"], row["users"]) == (1, "champion", 500, 40)
    assert row["lo"] < row["mean"] < row["hi"]
    policies = result.metadata["policies"]
    assert policies["champion"]["snips"]["verdict"] == "no verdict"  # 40 users are fewer than the 50 that it needs
    assert 10 < policies["champion"]["snips"]["effective_sample_size"] <= 40
    assert policies["logged"]["value"] == pytest.approx(row["mean"])
    assert policies["random"]["ips"]["verdict"] == "no verdict"  # ten of the catalog are explored
    assert (policies["logged"]["events"], policies["logged"]["fraction"]) == (500, 1.0)
    assert estimate_days(request(state, days=0.001)).metadata["no_verdict"]
    few = replace(state, settings=Settings(jobs=JobsConfig(evaluation_events=200)))
    sampled = estimate_days(request(few, days=1.0)).metadata
    assert (sampled["policies"]["logged"]["events"], sampled["policies"]["logged"]["fraction"]) == (500, 0.4)
    assert 140 < sampled["policies"]["logged"]["rounds"] < 260
    assert sampled["versions"] == result.metadata["versions"]  # they count all rewards


def test_the_interval_of_a_version_is_by_user(engine):
    with transaction(engine) as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
    same = {"time": 5, "version": 1, "variant": "champion", "explored": False}
    rows = [
        {**same, "event_id": f"{user}-{n}", "position": 0, "user_key": str(user), "reward": float(1 + user)}
        for user in range(4)
        for n in range(25)
    ]
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.execute(insert(rewards), rows)
        connection.commit()
    ((row,), users, records) = earned_by_version(engine, 0)
    assert (row["mean"], users, records) == (2.5, 4, 100)
    assert row["hi"] - row["lo"] > 1.5  # four users, each of one mind: a hundred free ratings would give 0.44
    assert earned_by_version(engine, 6) == ([], 0, 0)


def test_a_child_that_fails_says_why_in_one_line(state, monkeypatch):
    with pytest.raises(JobError, match=r"^KeyError at job_process\.py:\d+$"):
        run_in_subprocess(state, "no_such_work", {})
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/bin/false")
        with pytest.raises(JobError, match=r"the process ended with exit code 1 and no result; see jobs/evaluate\.log"):
            run_in_subprocess(state, "evaluate", {})
    with transaction(state.require_store().engine) as connection:
        connection.exec_driver_sql("DROP TABLE rewards")
    with pytest.raises(JobError, match=r"^OperationalError at \w+\.py:\d+$"):
        run_in_subprocess(state, "evaluate", {})


def test_a_server_without_registry_or_folder_has_nothing_to_train_on(engine):
    one = get_state(engine)
    object.__setattr__(one, "models", type("Bare", (), {"registry": None}))
    with pytest.raises(ConfigError, match="needs a registry"):
        JobRequest.from_state(one, {})


def test_the_password_of_the_database_goes_through_a_pipe(state, monkeypatch):
    seen = []
    real = subprocess.Popen

    def note(command, **words):
        seen.append((command, words.get("env")))
        return real([sys.executable, "-c", "import sys; sys.stdin.readline(); print('{}')"], **words)

    monkeypatch.setattr(subprocess, "Popen", note)
    assert run_in_subprocess(state, "evaluate", {}) == JobResult()
    ((command, env),) = seen
    assert "server.db" not in " ".join(command)
    assert not any("server.db" in value for value in env.values())


SLOW = "import sys, time; sys.stdin.readline(); print('up', flush=True); time.sleep(10**6)"


def test_a_child_is_stopped_with_the_server(state, monkeypatch):
    children, real, stopping = [], subprocess.Popen, threading.Event()

    def slow(command, **words):
        children.append(real([sys.executable, "-c", SLOW], **words))
        return children[-1]

    monkeypatch.setattr(subprocess, "Popen", slow)
    token = STOP_EVENT.set(stopping)
    threading.Timer(0.3, stopping.set).start()
    with pytest.raises(JobError, match="the server was stopped"):
        run_in_subprocess(state, "evaluate", {})
    STOP_EVENT.reset(token)
    assert children[0].poll() == -signal.SIGKILL


def test_a_child_that_is_done_ends_with_exit_code_0_while_the_server_lives(tmp_path):
    request = JobRequest("sqlite:///x", "r", str(tmp_path), {"jobs": {}}, {})
    body = "import recpolicy.server.jobs.job_process as w, sys, time\n" + (
        "w.WORK = {'nap': lambda request: (time.sleep(0.2), w.JobResult())[1]}\nsys.argv[1] = 'nap'\nw.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", body, "nap"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdin.write(json.dumps(vars(request)).encode() + b"\n")
    child.stdin.flush()
    assert child.wait(PATIENCE) == 0
    assert json.loads(child.stdout.read())["status"] == "done"
    assert b"Fatal" not in child.stderr.read()
    child.communicate()


def test_a_child_ends_when_the_server_was_killed(tmp_path):
    told = JobRequest("sqlite:///x", "r", str(tmp_path), {"jobs": {}}, {})
    body = "import recpolicy.server.jobs.job_process as w, time, sys\n" + (
        "w.WORK = {'wait': lambda errand: (print('up', file=sys.stderr, flush=True), time.sleep(10**6))}\n"
        "sys.argv[1] = 'wait'\nw.main()\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", body, "wait"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    child.stdin.write(json.dumps(vars(told)).encode() + b"\n")
    child.stdin.flush()
    assert child.stderr.readline() == b"up\n"
    assert os.getpriority(os.PRIO_PROCESS, child.pid) >= 10
    child.stdin.close()
    assert child.wait(PATIENCE) == 3
    child.stdout.close()
    child.stderr.close()


def test_the_registry_is_that_of_the_state(state):
    assert Registry(JobRequest.from_state(state, {}).registry).aliases()["champion"] == 1
    with state.require_store().engine.connect() as connection:
        assert connection.execute(events.select()).all() == []
