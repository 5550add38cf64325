"""The rollout routes of the admin API."""

import json

import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from rollout_fixtures import rate, rolling
from sqlalchemy.exc import IntegrityError

from recpolicy.server.app import make_app
from recpolicy.server.db import admin, rollouts
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import first_event_id, new_event_id, now_ms
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.jobs.rollout_job import check_rollout
from recpolicy.server.rollout.background import flush
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.schemas.rollouts import CurrentRollout, RolloutList, RolloutRequest, RolloutResponse


@pytest.fixture
def state(tmp_path):
    with rolling(tmp_path) as state:
        yield state


@pytest.fixture
def asked(state):
    """Asks the app with an operator's key."""
    app = make_app(state)
    headers = bearing(key_for(app, "operator", "ann"))
    return lambda method, path, body=None: ask(app, method, f"/v1/admin/{path}", body, headers=headers)


def test_a_rollout_begins_is_looked_at_and_is_stopped(state, asked):
    begun = asked("POST", "rollouts", {"challenger": 2, "stages": [0.5, 1], "margin": 0.4})
    assert begun.status_code == 201
    answer = RolloutResponse.model_validate(begun.json(), extra="forbid")
    assert (answer.state, answer.traffic_fraction, answer.plan["margin"]) == ("running", 0.5, 0.4)
    assert answer.plan["min_users"] == 30  # as in the settings
    rate(state, rollouts.latest(state.store.engine.connect(), 1)[0], 900)
    found = asked("GET", "rollouts/current").json()
    CurrentRollout.model_validate(found, extra="forbid")
    assert (found["next"], found["rollout"]["id"]) == ("advance", 1)
    figures = found["metrics"]
    assert figures["difference"]["lo"] < 0 < figures["difference"]["hi"]
    assert figures["champion"]["mean"]["value"] == pytest.approx(3, abs=0.2)
    assert figures["shadow"] is None
    stopped = asked("DELETE", "rollouts/current").json()
    assert (stopped["state"], stopped["ended_at"] > 0) == ("stopped", True)
    listed = asked("GET", "rollouts").json()
    RolloutList.model_validate(listed, extra="forbid")
    assert [one["state"] for one in listed["rollouts"]] == ["stopped"]
    with state.store.engine.connect() as connection:
        assert [line["actor"] for line in admin.latest_audit(connection, 2)] == ["ann", "ann"]


def test_a_rollout_takes_each_setting_that_can_be_given_with_it(asked):
    given = {
        "stages": [0.2, 0.6], "promote": False, "shadow": False, "margin": 0.3, "min_users": 40, "min_rewards": 50,
        "min_hours": 2.0, "max_hours": 200.0, "return_days": 3.0, "return_margin": 0.05,
    }  # fmt: skip
    assert set(RolloutRequest.model_fields) - {"challenger", "ungated"} == set(given)
    begun = asked("POST", "rollouts", {"challenger": 2, **given})
    assert begun.status_code == 201
    assert {name: begun.json()["plan"][name] for name in given} == given


def test_what_is_not_known_yet_is_null(state, asked):
    assert asked("GET", "rollouts/current").json() == dict.fromkeys(("rollout", "metrics", "next", "reason"))
    asked("POST", "rollouts", {"challenger": 2})
    found = asked("GET", "rollouts/current").json()
    nothing = dict.fromkeys(("value", "lo", "hi"))
    assert found["metrics"]["difference"] == found["metrics"]["champion"]["mean"] == nothing
    assert found["metrics"]["health"]["champion"]["mean_ms"] is None
    assert (found["next"], found["reason"]) == ("wait", "0 of 30 users of the challenger gave rewards")


def test_a_shadow_tells_what_it_would_have_shown(state, asked):
    asked("POST", "rollouts", {"challenger": 2, "shadow": True})
    state.rollout_counters.counts.add(1, "challenger", VariantHealth(4, 1, 0, 0.02, 1.5, -0.75, 2))
    flush(state)
    found = asked("GET", "rollouts/current").json()["metrics"]
    assert found["shadow"] == {"compared": 3, "dropped": 2, "agreement": 0.5, "rating_difference": -0.25}
    assert found["health"]["challenger"] == {"requests": 4, "failures": 1, "slow": 0, "mean_ms": 5.0}


def test_a_comparison_stays_where_it_is(state, asked):
    asked("POST", "rollouts", {"challenger": 2, "stages": [0.5], "promote": False})
    rate(state, rollouts.latest(state.store.engine.connect(), 1)[0], 900, hours=6.0)
    assert check_rollout(state, {}).metadata["action"] == "wait"
    assert asked("GET", "rollouts/current").json()["next"] == "wait"


def test_refusals(state, asked):
    refusal(asked("DELETE", "rollouts/current"), 404, "not_found")
    refusal(asked("POST", "rollouts", {"challenger": 9}), 404, "not_found")
    refusal(asked("POST", "rollouts", {"challenger": 1}), 409, "conflict")
    refusal(asked("POST", "rollouts", {"challenger": 2, "stages": [0.5, 0.2]}), 422, "invalid_value")
    refusal(asked("POST", "rollouts", {"challenger": 2, "stage": [0.5]}), 422, "invalid_request")
    assert asked("POST", "rollouts", {"challenger": 2}).is_success
    refusal(asked("POST", "rollouts", {"challenger": 2}), 409, "conflict")


def test_a_damaged_challenger_is_a_conflict(state, asked):
    (state.models.registry.resolve(2) / "arrays.npz").unlink()
    assert "damaged" in refusal(asked("POST", "rollouts", {"challenger": 2}), 409, "conflict")


ROUTES = [("POST", "rollouts", 403), ("GET", "rollouts", 200), ("GET", "rollouts/current", 200)]


@pytest.mark.parametrize(("method", "path", "as_reader"), [*ROUTES, ("DELETE", "rollouts/current", 403)])
def test_who_may_ask(state, method, path, as_reader):
    app = make_app(state)
    body = {"challenger": 2} if method == "POST" else None
    for key, status in ((None, 401), (key_for(app, "reader"), as_reader)):
        assert ask(app, method, f"/v1/admin/{path}", body, headers=bearing(key)).status_code == status
    with state.store.engine.connect() as connection:
        assert not rollouts.latest(connection, 1)


@pytest.fixture
def engine(each_engine):
    return each_engine


def test_on_both_databases_one_rollout_runs_and_changes_only_as_it_was_seen(engine):
    with transaction(engine) as connection:
        row = rollouts.add(connection, 1, 2, {"stages": [0.1]})
    with pytest.raises(ConflictError), transaction(engine) as connection:
        rollouts.add(connection, 1, 3, {})
    with transaction(engine) as connection:
        assert rollouts.unfinished(connection) == row
        assert rollouts.move(connection, row, stage_at=5)
        assert not rollouts.move(connection, row, stage_at=6)
        (row,) = rollouts.latest(connection, 5)
        assert rollouts.move(connection, row, state="stopped", ended_at=7)
        assert rollouts.unfinished(connection) is None
        assert rollouts.add(connection, 1, 3, {}).id > row.id
    with pytest.raises(IntegrityError), transaction(engine) as connection:
        connection.exec_driver_sql("UPDATE rollouts SET state = 'running', ended_at = NULL")


def test_on_both_databases_counts_and_rewards_add_up(engine):
    numbers = VariantHealth(5, 1, 2, 0.5, 1.5, -0.25, 3)
    for _ in range(2):
        with transaction(engine) as connection:
            rollouts.add_health(connection, "a", {(1, "champion"): numbers})
    with engine.connect() as connection:
        found = rollouts.health(connection, 1, minutes=5)
        assert found == {"champion": numbers + numbers}
        json.dumps(found["champion"].requests)  # a number as JSON knows it
        assert rollouts.variant_stats(connection, 1, 0) == {}
    with transaction(engine) as connection:
        rollouts.forget_health(connection, 2)
        assert rollouts.health(connection, 1) == {}


def test_on_both_databases_users_are_the_units(engine):
    """Of the champion: user a gave 5 and 1 (mean 3), b gave 4; of the challenger: c gave 2. The rest does not count."""
    given = [("a", 5, {}), ("a", 1, {}), ("b", 4, {}), ("c", 2, {"variant": "challenger"})]
    given += [("d", 1, {"time": 99}), ("e", 1, {"explored": True}), ("f", 1, {"rollout": 2})]
    with transaction(engine) as connection:
        rated(connection, given)
    with engine.connect() as connection:
        found = rollouts.variant_stats(connection, 1, 100)
    champion, challenger = found["champion"], found["challenger"]
    assert (champion.users, champion.rewards, champion.mean, champion.variance) == (2, 3, 3.5, pytest.approx(0.5))
    assert (challenger.users, challenger.rewards, challenger.mean) == (1, 1, 2.0)


def test_ids_of_events_tell_the_time():
    now = now_ms()
    assert first_event_id(now - 1) < new_event_id() < first_event_id(now + 60_000)


def rated(connection, given):
    from sqlalchemy import insert

    from recpolicy.server.db.schema import events, rewards

    for place, (user, reward, words) in enumerate(given):
        one = {"time": 100, "rollout": 1, "variant": "champion", "explored": False} | words
        same = {name: one[name] for name in ("time", "rollout", "variant", "explored")} | {"version": 1}
        texts = {
            "policy_digest": "c",
            "agent": "linucb",
            "item_ids": "[7]",
            "propensities": "[1.0]",
            "ratings": "[3.0]",
        }
        connection.execute(
            insert(events).values(**same, **texts, id=f"{first_event_id(one['time'])}{place:020x}", user_key=user)
        )
        told = {
            "event_id": f"{first_event_id(one['time'])}{place:020x}",
            "position": 0,
            "reward": reward,
            "user_key": user,
        }
        connection.execute(insert(rewards).values(**{**same, **told, "time": 5_000}))
