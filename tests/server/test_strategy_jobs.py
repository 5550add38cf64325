"""The weekly training and the daily evaluation of strategies, in this process: what they learn, skip and say."""

import json

import numpy as np
import pytest
from client_helpers import ask
from command_line import recpolicy
from event_factory import event
from sqlalchemy import insert, text
from strategy_fixtures import SITUATION, TRAITS, strategist, strategy_event

from recpolicy.data.feature_log_files import read_feature_log
from recpolicy.server.backup.create import create_backup
from recpolicy.server.backup.restore import restore_backup
from recpolicy.server.db import jobs as job_runs
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.feature_export import export_strategies
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.schema import rank_signals
from recpolicy.server.jobs.strategy_jobs import train_strategies as train_job
from recpolicy.server.jobs.strategy_worker import evaluate_strategies, train_strategies
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.strategies.artifact import read_strategy_policy
from recpolicy.strategies.config import StrategyConfig
from recpolicy.strategies.log_rounds import rounds_from_log
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.training import train_on_rounds

DAY = 86_400_000


@pytest.fixture
def server(tmp_path):
    with strategist(tmp_path, min_interactions=20) as opened:
        yield opened


def store(state, events, reward=lambda event: "like"):
    """Write events with one signal each, a second later; `reward` gives its type or None."""
    signals = [
        {"event_id": each.id, "slot": 0, "signal_id": None, "type": reward(each), "value": 1.0,
         "time": each.time + 1_000, "late": False, "online": True}
        for each in events if reward(each)
    ]  # fmt: skip
    with transaction(state.store.engine) as connection:
        insert_rank_events(connection, events)
        if signals:
            connection.execute(insert(rank_signals), signals)


def days_ago(days, **fields):
    return strategy_event(time=now_ms() - round(days * DAY), **fields)


def train(state, **parameters):
    return train_strategies(JobRequest.from_state(state, parameters))


def test_a_training_learns_the_final_events_of_active_users_and_is_served(server):
    """Strategy 5 earns a like (1), strategy 13 a skip (-0.3): user 1 has 10 rounds of each, user 2 only 4."""
    state, app, _ = server
    good = [days_ago(3, user=1, action=5) for _ in range(10)]
    bad = [days_ago(3, user=1, action=13) for _ in range(10)]
    others = [days_ago(3, user=2, action=5) for _ in range(4)]
    young, old = [days_ago(0.5, user=1)], [days_ago(8, user=1)]
    without = [days_ago(3, user=1, profile=None), days_ago(3, user=1, online=False)]
    store(state, [*good, *bad, *others, *young, *old, *without], lambda each: "skip" if each in bad else "like")
    result = train(state)
    assert (result.status, result.users, result.records) == ("done", 1, 20)
    found = result.metadata
    assert (found["version"], found["from"], found["days_back"]) == (1, None, 7.0)
    assert found["avg_reward"] == pytest.approx((10 * 1.0 - 10 * 0.3) / 20)
    assert (found["like_rate"], found["positive_share"]) == (0.5, 0.5)
    assert (found["total_states"], found["total_state_actions"], found["interactions"]) == (1, 2, 20)
    assert found["left_out"] == {"users_with_few": 4, "waiting": 1, "no_profile": 1, "no_key": 1}
    state.strategies.refresh()
    assert state.strategies.live.number == 1
    body = {**SITUATION, "profile": TRAITS}
    answers = [ask(app, "POST", "/v1/strategies/recommend", body).json() for _ in range(30)]
    greedy = [answer for answer in answers if not answer["explored"]]
    assert {answer["action"] for answer in greedy} == {5}
    assert {answer["source"] for answer in greedy} == {"cell"}
    assert greedy[0]["policy"]["version"] == 1
    assert 0 < greedy[0]["expected_reward"] <= 1
    epsilon = state.strategies.live.policy.epsilon
    assert greedy[0]["propensity"] == pytest.approx(1 - epsilon + epsilon / 27)


def test_a_training_run_twice_says_that_there_is_nothing_new(server):
    state, _, _ = server
    store(state, [days_ago(3, action=5) for _ in range(20)])
    first = train(state)
    digest = read_strategy_policy(state.strategies.registry.resolve("champion")).policy_digest
    again = train(state)
    assert (first.status, again.status) == ("done", "skipped")
    assert "0 new events" in again.metadata["reason"]
    assert "20 already learned" in again.metadata["reason"]
    assert len(state.strategies.registry.versions()) == 1
    store(state, [days_ago(2, action=5) for _ in range(20)])
    third = train(state)
    assert (third.status, third.metadata["from"], third.metadata["rounds"]) == ("done", 1, 40)
    policy = read_strategy_policy(state.strategies.registry.resolve("champion"))
    assert policy.policy_digest != digest
    assert policy.table.visits.sum() == 40


def test_a_user_counts_by_all_interactions_of_the_window(server):
    """User 1 has 20 learned events and 1 new one: 21 in the window, so the new one is learned; user 2 has 4."""
    state, _, _ = server
    store(state, [days_ago(3, user=1) for _ in range(20)])
    assert train(state).status == "done"
    store(state, [days_ago(2, user=1), *(days_ago(2, user=2) for _ in range(4))])
    again = train(state, min_interactions=1)
    assert (again.status, again.records) == ("done", 1)
    assert again.metadata["left_out"] == {"already_learned": 20, "users_with_few": 4}


def test_an_exported_log_trains_the_same_table_as_the_job(server, tmp_path, capsys):
    """Events without the traits are left out; the export has levels, parameters and weights of the strategies."""
    state, _, _ = server
    config = StrategyConfig()
    actions = [days_ago(3, user=user, action=5 + user) for user in range(4) for _ in range(6)]
    rows = state.strategies.live.rows
    digests = state.strategies.live.offers
    actions = [each._replace(offers=digests, rows=rows) for each in actions]
    store(state, [*actions, days_ago(3, profile=None)._replace(offers=digests, rows=rows), days_ago(0.5)])
    assert train(state).status == "done"
    done = export_strategies(state.store.engine, config.reward, config.profile.traits, tmp_path / "log")
    assert (done.rounds, done.signals) == (24, 24)
    assert done.left_out == {"incomplete": 1, "waiting": 1}
    answer = recpolicy(capsys, "log", "export", state.folder, "--task", "strategy", "--out", tmp_path / "again")
    assert "wrote 24 rounds with 24 signals" in answer.out
    assert "dropped: 1 events (the user did not agree that the server keeps the traits)" in answer.out
    refused = recpolicy(capsys, "log", "export", state.folder, "--config", "x.toml", "--out", tmp_path / "third")
    assert "only for --task strategy" in refused.err
    log = read_feature_log(tmp_path / "again", "log")
    assert set(log.actions) >= {"energy", "min_energy", "genre_count", "item_diversity", "item_energy_tilt"}
    rounds = rounds_from_log(log, config)
    learned, _ = train_on_rounds(StrategyPolicy(config), rounds, days_back=30)
    job = read_strategy_policy(state.strategies.registry.resolve("champion"))
    np.testing.assert_array_equal(learned.table.states, job.table.states)
    np.testing.assert_allclose(learned.table.q, job.table.q)


def test_fewer_events_than_asked_for_are_skipped_with_the_reason(server):
    state, _, _ = server
    store(state, [days_ago(3) for _ in range(19)])
    result = train(state)
    assert result.status == "skipped"
    assert result.metadata["reason"] == (
        "19 new events of users with at least 5 in the last 7 days; expected 20. Left out: none"
    )
    assert train(state, min_interactions=19).status == "done"


def test_the_row_of_a_training_is_read_by_sql(server):
    state, _, _ = server
    store(state, [days_ago(3, action=5) for _ in range(20)])
    with transaction(state.store.engine) as connection:
        run = job_runs.begin(connection, "train_strategies", "w", now_ms())
        job_runs.end(connection, run, train(state), now_ms())
    query = (
        "SELECT status, users, records, json_extract(metadata, '$.avg_reward'), json_extract(metadata, '$.coverage')"
        " FROM jobs WHERE name = 'train_strategies' ORDER BY executed_at DESC LIMIT 1"
    )
    with state.store.engine.connect() as connection:
        row = connection.execute(text(query)).one()
    assert row[:4] == ("done", 1, 20, 1.0)
    assert row[4] == pytest.approx(1 / (5**5 * 3 * 6 * 4 * 27))


def test_an_evaluation_reports_the_last_days_by_kind_of_content(server):
    """40 users like music, and 20 of the 40 of video do; events of the last day wait for their rewards."""
    state, _, _ = server
    music = [days_ago(2, user=user) for user in range(40)]
    video = [days_ago(2, user=user, action=1, situation={"content_type": "video"}) for user in range(40)]
    liked = {each.id for each in music} | {each.id for each in video[:20]}
    store(state, [*music, *video, days_ago(0.5)], lambda each: "like" if each.id in liked else None)
    result = evaluate_strategies(JobRequest.from_state(state, {}))
    found = result.metadata
    assert (result.status, result.users, result.records) == ("done", 40, 80)
    assert found["all"]["mean_reward"]["value"] == found["all"]["like_rate"]["value"] == 0.75
    assert found["by_content_type"]["music"]["like_rate"] == {"value": 1.0, "lo": 1.0, "hi": 1.0}
    half = found["by_content_type"]["video"]["like_rate"]
    assert half["lo"] < 0.36 < half["value"] == 0.5 < 0.64 < half["hi"]
    assert (found["by_content_type"]["music"]["explored"], found["by_content_type"]["video"]["explored"]) == (0, 1)
    assert found["sources"] == {"cell": 0, "factored": 0, "trait_blind": 0, "static": 1}


def test_an_evaluation_of_nothing_says_why(server):
    state, _, _ = server
    store(state, [days_ago(0.5)])
    result = evaluate_strategies(JobRequest.from_state(state, {}))
    assert result.status == "skipped"
    assert result.metadata["reason"] == "no strategy event of the last 3 days has a final reward; 1 wait for one"


def test_a_server_without_strategies_skips_the_jobs_with_the_reason(server):
    state, _, _ = server
    object.__setattr__(state, "strategies", None)
    result = train_job(state, {})
    assert (result.status, result.metadata["reason"]) == (
        "skipped", "this server serves no strategies: [strategies] enabled is false",
    )  # fmt: skip


def test_no_job_is_skipped_without_a_reason():
    with pytest.raises(ValueError, match="needs a reason"):
        JobResult(status="skipped")
    with pytest.raises(ValueError, match="needs a reason"):
        JobResult(status="skipped", metadata={"reason": ""})


def test_the_job_runs_in_its_own_process_and_the_server_follows(server):
    state, _, _ = server
    store(state, [days_ago(3, action=5) for _ in range(20)])
    result = train_job(state, {"days_back": 5.0})
    assert (result.status, result.metadata["days_back"]) == ("done", 5.0)
    assert state.strategies.live.number == 1


def test_backups_hold_profiles_and_the_trained_strategies(server, tmp_path):
    state, app, keys = server
    body = {"opt_in": True, "profile": TRAITS}
    ask(app, "PUT", "/v1/strategies/users/7", body, headers=keys["client"])
    store(state, [days_ago(3, action=5) for _ in range(20)])
    train(state)
    create_backup(state.folder, tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "again")
    assert (tmp_path / "again" / "strategies" / "versions" / "1").is_dir()
    (tmp_path / "restored").mkdir()
    (tmp_path / "again").rename(tmp_path / "restored" / "state")
    with strategist(tmp_path / "restored") as (again, other, new_keys):
        assert again.strategies.live.number == 1
        shown = ask(other, "GET", "/v1/strategies/users/7", headers=new_keys["client"]).json()
        assert shown["profile"] == TRAITS


def test_strategies_do_not_disturb_the_lists_of_the_server(server):
    """A list and a strategy of one user, side by side; the checks of ranks see neither."""
    state, app, _ = server
    with transaction(state.store.engine) as connection:
        insert_events(connection, [event()])
    store(state, [days_ago(3)])
    assert ask(app, "POST", "/v1/recommend", {"user": 1, "k": 1}).status_code == 200
    assert json.loads(ask(app, "GET", "/readyz").text)["status"] == "ready"
