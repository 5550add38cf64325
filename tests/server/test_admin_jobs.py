"""Jobs, runs, drift and rewards as operators and readers see them."""

import pytest
from client_helpers import ask, refusal
from event_factory import event
from job_fixtures import Clock, Gate, job, tick
from trained_policies import trained
from waiting import PATIENCE

from recpolicy.server.app import make_app
from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.jobs import JOBS
from recpolicy.server.jobs.scheduler import Job, JobResult, Scheduler
from recpolicy.server.jobs.subprocess_jobs import EVALUATE, RETRAIN
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.schemas.admin import DriftResponse, JobList, RewardList, RunList, RunResponse, RunStartedResponse
from recpolicy.server.settings import Settings


@pytest.fixture
def state(tmp_path):
    with open_state(trained("linucb"), tmp_path, Settings()) as state:
        yield state


class Console:
    """An app and the keys of three callers."""

    def __init__(self, state, *jobs, keys=None):
        self.app = make_app(state)
        self.app.state.scheduler = Scheduler(state, {one.name: one for one in jobs} or JOBS)
        self.keys = keys or {role: id_key(state, role) for role in ("client", "reader", "operator")}

    def ask(self, method, path, body=None, role="reader"):
        headers = {"x-api-key": self.keys[role]} if role else {}
        return ask(self.app, method, f"/v1/admin/{path}", body, headers=headers)


def id_key(state, role):
    """A new key of this role."""
    key = new_key()
    with transaction(state.require_store().engine) as connection:
        admin.add_key(connection, role, role, key_digest(key))
    return key


@pytest.mark.parametrize("text", ["%00", "evaluate%00", "%ed%a0%80"])
def test_a_text_that_a_database_cannot_hold_is_refused_or_matches_nothing(state, text):
    console = Console(state)
    answer = console.ask("GET", f"runs?name={text}")
    if "%00" in text:
        assert "NUL" in refusal(answer, 422, "invalid_request")
    else:  # bytes that are no UTF-8 become replacement characters
        assert answer.json() == {"runs": []}
    assert console.ask("POST", f"jobs/{text}", {}, "operator").status_code in (404, 422)
    for path in (f"keys/{text}", f"versions/{text}", f"rollouts/{text}"):
        assert console.ask("DELETE", path, role="operator").status_code in (404, 405, 422)


def test_jobs_are_listed_with_their_next_times(state):
    console = Console(state)
    listed = JobList.model_validate(console.ask("GET", "jobs").json()).jobs
    assert {one.name: one.cron for one in listed} == {
        "retrain": "0 1 * * mon", "evaluate": "0 2 * * *", "drift": "*/15 * * * *", "check_rollout": "@every 10s",
        "delete_old_events": "30 3 * * *", "train_strategies": "0 1 * * mon", "evaluate_strategies": "30 2 * * *",
        "allocate_new_items": "15 0 * * *", "fit_returns": "15 4 * * sun",
    }  # fmt: skip
    assert {one.next_at for one in listed} == {None}
    console = Console(state, job(), keys=console.keys)
    clock = Clock()
    tick(Scheduler(state, {"count": job()}, clock, clock.monotonic))
    assert console.ask("GET", "jobs").json()["jobs"][0]["next_at"] == clock.now + 3_600_000


def test_a_run_is_begun_looked_at_and_listed(state):
    given = []

    def run(_, parameters):
        given.append(parameters)
        return JobResult(users=2, records=7, metadata={"days": parameters["days"]})

    evaluate = Job(
        name="evaluate", description="x", cron="0 2 * * *", run=run, parameters=EVALUATE.parameters
    )  # fmt: skip
    console = Console(state, evaluate, job())
    answer = console.ask("POST", "jobs/evaluate", {"days": 3}, role="operator")
    assert answer.status_code == 202
    number = RunStartedResponse.model_validate(answer.json()).run
    assert console.app.state.scheduler.wait(number, PATIENCE)
    found = RunResponse.model_validate(console.ask("GET", f"runs/{number}").json())
    assert (found.status, found.users, found.records, found.metadata) == ("done", 2, 7, {"days": 3.0})
    assert given == [{"days": 3.0}]
    for _ in range(2):
        assert console.app.state.scheduler.wait(
            console.ask("POST", "jobs/count", {}, role="operator").json()["run"], PATIENCE
        )
    listed = RunList.model_validate(console.ask("GET", "runs").json()).runs
    assert [one.name for one in listed] == ["count", "count", "evaluate"]
    assert len(console.ask("GET", "runs?limit=1").json()["runs"]) == 1
    assert [one["name"] for one in console.ask("GET", "runs?name=evaluate").json()["runs"]] == ["evaluate"]


def test_what_cannot_be_run_is_refused(state):
    gate = Gate()
    console = Console(state, job(gate), EVALUATE)
    assert "the jobs are count, evaluate" in refusal(
        console.ask("POST", "jobs/cuont", {}, role="operator"), 404, "not_found"
    )
    assert "takes no parameters" in refusal(
        console.ask("POST", "jobs/count", {"days": 3}, role="operator"), 422, "invalid_value"
    )
    for days in (0, -1, "x", 1000):
        refusal(console.ask("POST", "jobs/evaluate", {"days": days}, role="operator"), 422, "invalid_value")
    number = console.ask("POST", "jobs/count", {}, role="operator").json()["run"]
    assert "is running (run" in refusal(console.ask("POST", "jobs/count", {}, role="operator"), 422, "invalid_value")
    gate.open.set()
    assert console.app.state.scheduler.wait(number, PATIENCE)
    refusal(console.ask("GET", "runs/99"), 404, "not_found")
    for path in ("runs/0", "runs/x", f"runs/{2**40}", "runs?limit=0", "runs?limit=501", "rewards?days=0"):
        refusal(console.ask("GET", path), 422, "invalid_request")


def test_no_parameter_of_a_job_names_code_or_files(state):
    """Operators of a server are not its administrators: what is imported or read, the settings name."""
    console = Console(state, RETRAIN)
    for name, value in (("like_model", "os:system"), ("gate", "/etc/passwd")):
        answer = console.ask("POST", "jobs/retrain", {name: value}, role="operator")
        assert name in refusal(answer, 422, "invalid_value")


def test_readers_look_and_operators_run(state):
    console = Console(state, job())
    for path in ("jobs", "runs", "runs/1", "drift", "rewards", "signals", "checklist"):
        refusal(console.ask("GET", path, role=None), 401, "unauthorized")
        refusal(console.ask("GET", path, role="client"), 403, "forbidden")
    refusal(console.ask("POST", "jobs/count", {}, role=None), 401, "unauthorized")
    refusal(console.ask("POST", "jobs/count", {}, role="reader"), 403, "forbidden")
    assert console.ask("GET", "runs").json() == {"runs": []}


def test_the_last_figures_of_drift_are_shown(state):
    console = Console(state)
    assert DriftResponse.model_validate(console.ask("GET", "drift").json()).run is None
    number = console.ask("POST", "jobs/drift", {}, role="operator").json()["run"]
    assert console.app.state.scheduler.wait(number, PATIENCE)
    run = DriftResponse.model_validate(console.ask("GET", "drift").json()).run
    assert run.metadata == {
        "version": 1, "alarms": {},
        "metrics": {"users": None, "contexts": None, "reward": None, "actions": None, "floor": None},
    }  # fmt: skip


def test_rewards_are_told_by_day_version_and_variant(state):
    now = now_ms()
    shown = [event(time=now), event(time=now), event(time=now, variant="challenger", version=2)]
    with transaction(state.require_store().engine) as connection:
        insert_events(connection, shown)
        for one, rating in zip(shown, (2.0, 5.0, 4.0), strict=True):
            apply_feedback(
                connection, [FeedbackItem(one.id, None, "rating", rating)], now, RewardRules((1.0, 5.0), 10**6)
            )
    rows = RewardList.model_validate(Console(state).ask("GET", "rewards?days=1").json()).rows
    assert [(row.version, row.variant, row.rewards, row.mean) for row in rows] == [
        (1, "champion", 2, 3.5), (2, "challenger", 1, 4.0),
    ]  # fmt: skip
    assert {row.day for row in rows} == {now // 86_400_000}


def test_a_server_that_keeps_nothing_has_no_keys_and_so_no_jobs_to_run():
    app = make_app(stateless_state(trained("linucb"), Settings()))
    refusal(ask(app, "GET", "/v1/admin/jobs"), 401, "unauthorized")
    refusal(ask(app, "POST", "/v1/admin/jobs/drift", {}), 401, "unauthorized")
