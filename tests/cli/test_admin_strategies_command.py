"""`recpolicy admin strategies`: the serving table, the trainings, the last evaluation and the runs of the jobs."""

import json
from dataclasses import asdict

import pytest
from api_keys import listening
from command_line import recpolicy, refused
from sqlalchemy import insert
from strategy_fixtures import key, strategist, strategy_event
from tiny_policies import write_tiny
from waiting import wait_until

from recpolicy.cli.admin_strategies import say_strategies
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.schema import rank_signals
from recpolicy.server.jobs.strategy_worker import evaluate_strategies, train_strategies
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import Settings
from recpolicy.server.strategies.service import strategy_statistics

DAY = 86_400_000


def lines(text):
    return [line.split() for line in text.splitlines()]


@pytest.fixture
def server(tmp_path, monkeypatch):
    with strategist(tmp_path, min_interactions=20) as (state, app, _), listening(app) as (host, port):
        monkeypatch.setenv("RECPOLICY_URL", f"http://{host}:{port}")
        monkeypatch.setenv("RECPOLICY_KEY", key(state, "operator"))
        yield state


def test_an_untrained_table_and_a_skipped_run_say_so(server, capsys):
    number = recpolicy(capsys, "admin", "run", "train_strategies").out.split()[1]
    wait_until(lambda: "running" not in recpolicy(capsys, "admin", "runs", number).out)
    answer = recpolicy(capsys, "admin", "strategies")
    assert (answer.code, answer.err) == (0, "")
    rows = lines(answer.out)
    assert rows[0][:2] == ["strategies:", "untrained,"]
    assert ["epsilon", "0.3"] in rows
    assert "trainings:" not in answer.out
    assert "0 new events of users with at least 5 in the last 7 days; expected 20" in answer.out
    plain = json.loads(recpolicy(capsys, "admin", "strategies", "--json").out)
    assert plain["statistics"]["total_states"] == 0
    assert [run["status"] for run in plain["runs"]["train_strategies"]] == ["skipped"]


def test_a_server_without_strategies_is_one_line(tmp_path, capsys, monkeypatch):
    write_tiny(tmp_path / "policy")
    with open_state(tmp_path / "policy", tmp_path / "state", Settings()) as state, listening(make_app(state)) as at:
        monkeypatch.setenv("RECPOLICY_URL", f"http://{at[0]}:{at[1]}")
        monkeypatch.setenv("RECPOLICY_KEY", key(state, "operator"))
        assert "this server serves no strategies: set enabled = true" in refused(
            recpolicy(capsys, "admin", "strategies")
        )


def test_trainings_and_the_evaluation_are_rows(server, capsys):
    """Ten likes and ten skips: a like rate of one half, and a mean reward of (1 - 0.3) / 2."""
    events = [strategy_event(user=user, action=5, time=now_ms() - 3 * DAY) for user in range(4) for _ in range(5)]
    signals = [
        {"event_id": event.id, "slot": 0, "signal_id": None, "type": "like" if at % 2 else "skip", "value": 1.0,
         "time": event.time + 1_000, "late": False, "online": True} for at, event in enumerate(events)
    ]  # fmt: skip
    with transaction(server.store.engine) as connection:
        insert_rank_events(connection, events)
        connection.execute(insert(rank_signals), signals)
    runs = {}
    for number, (name, work, parameters) in enumerate(
        [("train_strategies", train_strategies, {}), ("evaluate_strategies", evaluate_strategies, {"test_days": 5})], 1
    ):
        result = work(JobRequest.from_state(server, parameters))
        row = {"id": number, "name": name, "executed_at": 1_700_000_000_000, "finished_at": 1_700_000_001_000}
        runs[name] = [{**row, **asdict(result)}]
    server.strategies.refresh()
    say_strategies({"statistics": strategy_statistics(server.strategies.live), "runs": runs})
    out = capsys.readouterr().out
    rows = lines(out)
    assert rows[0][:3] == ["strategies:", "version", "1,"]
    assert ["total_state_actions", "1"] in rows
    assert ["coverage", f"{1 / 6_075_000:.6g}"] in rows
    training = rows[rows.index(["trainings:"]) + 2]
    assert training[:4] == ["2023-11-14T22:13:20Z", "1", "20", "0.35"]
    assert training[5] == "0.5"
    assert "evaluation of the last 5 days:" in out
    kind = next(row for row in rows if row[0] == "music")
    assert kind[1:4] == ["20", "4", "0.350"]
    assert [row[1] for row in rows if row[1:2] in (["evaluate_strategies"], ["train_strategies"])] == [
        "evaluate_strategies", "train_strategies",
    ]  # fmt: skip
