"""The strategy engine over HTTP: exact propensities, consent, profiles, rewards, repetition, bad input."""

import json

import numpy as np
import pytest
from client_helpers import ask, refusal
from sqlalchemy import select
from strategy_fixtures import REQUEST, SITUATION, TRAITS, strategist, strategy_event

from recpolicy.core.errors import ConfigError
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rank_events import insert_rank_events, parse_rank_event, rank_event_line
from recpolicy.server.db.schema import action_rows, rank_events, rank_signals, strategy_profiles
from recpolicy.server.schemas.strategies import ProfileResponse, StrategyResponse, StrategyStats

PATH = "/v1/strategies/recommend"


@pytest.fixture
def server(tmp_path):
    with strategist(tmp_path) as opened:
        yield opened


def stored(state):
    with state.store.engine.connect() as connection:
        return connection.execute(select(rank_events).order_by(rank_events.c.seq)).all()


def test_a_strategy_has_its_parameters_its_propensity_and_its_source(server):
    """An untrained policy prefers medium, balanced, mixed (13) and draws all 27 alike with epsilon 0.3."""
    state, app, _ = server
    answers = [ask(app, "POST", PATH, REQUEST | {"event_id": f"e{number}"}).json() for number in range(40)]
    for body in answers:
        answer = StrategyResponse.model_validate(body)
        assert answer.source == "static"
        assert answer.propensity == pytest.approx(0.7 * (answer.action == 13) + 0.3 / 27)
        assert answer.explored == (answer.action != 13)
        assert (answer.policy.version, answer.expected_reward) == (None, 0)
    first = next(body for body in answers if body["action"] == 13)
    assert first["strategy"] == {"energy": "medium", "diversity": "balanced", "novelty": "mixed"}
    assert first["parameters"] == {
        "min_energy": 0.3, "max_energy": 0.7, "genre_count": 4, "exploration_rate": 0.3, "min_popularity": 0.3,
        "max_popularity": 0.9,
    }  # fmt: skip
    assert 0 < sum(body["explored"] for body in answers) < 40
    row = stored(state)[0]
    assert (row.task, row.slot, row.version, row.online, row.mode) == ("strategy", 0, 0, False, "static")
    probability = np.frombuffer(row.probabilities, "<f8")
    assert probability.sum() == pytest.approx(1)
    assert int(np.frombuffer(row.ranking, "<u2")[0]) == answers[0]["action"]
    with state.store.engine.connect() as connection:
        assert len(connection.execute(select(action_rows)).all()) == 27
    assert 'recpolicy_strategies_total{explored="False",source="static",version="0"}' in state.metrics.text().decode()


def test_the_same_request_with_the_same_id_gets_the_same_strategy_and_another_is_a_conflict(server):
    state, app, _ = server
    first = ask(app, "POST", PATH, REQUEST | {"event_id": "mine", "user": 3, "opt_in": True}).json()
    again = ask(app, "POST", PATH, REQUEST | {"event_id": "mine", "user": 3, "opt_in": True}).json()
    assert again == first | {"expected_reward": None}
    other = REQUEST | {"event_id": "mine", "user": 3, "opt_in": True, "mood": "happy"}
    assert "another request" in refusal(ask(app, "POST", PATH, other), 409, "conflict")
    assert len(stored(state)) == 1


def test_the_event_holds_the_traits_only_with_consent(server):
    state, app, _ = server
    ask(app, "POST", PATH, REQUEST | {"user": 1})
    ask(app, "POST", PATH, REQUEST | {"user": 1, "opt_in": True, "session": "s1"})
    without, agreed = (json.loads(row.context) for row in stored(state))
    assert without == SITUATION
    assert agreed == TRAITS | SITUATION | {"session": "s1"}
    message = refusal(ask(app, "POST", PATH, REQUEST | {"opt_in": True}), 422, "invalid_value")
    assert "user is missing" in message


def test_a_profile_is_stored_once_and_used_for_callers_with_a_key(server):
    state, app, keys = server
    answer = ask(app, "PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": TRAITS}, headers=keys["client"])
    profile = ProfileResponse.model_validate(answer.json(), strict=True)
    assert (profile.user, profile.profile) == (7, TRAITS)
    changed = {**TRAITS, "openness": 1.0}
    ask(app, "PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": changed}, headers=keys["client"])
    shown = ask(app, "GET", "/v1/strategies/users/7", headers=keys["client"]).json()
    assert shown["profile"] == changed
    assert shown["created_at"] <= shown["changed_at"]
    assert ask(app, "GET", "/v1/strategies/users/7?text=true", headers=keys["client"]).status_code == 404
    ask(app, "POST", PATH, SITUATION | {"user": 7}, headers=keys["client"])
    ask(app, "POST", PATH, SITUATION | {"user": 7})  # without a key: as if there were no profile
    used, unused = stored(state)
    assert (json.loads(used.context)["openness"], used.online) == (1.0, True)
    assert (json.loads(unused.context), unused.online) == (SITUATION, False)


def test_a_profile_needs_consent_and_a_key(server):
    _, app, keys = server
    for body in ({"profile": TRAITS}, {"opt_in": False, "profile": TRAITS}):
        refusal(ask(app, "PUT", "/v1/strategies/users/7", body, headers=keys["client"]), 422, "invalid_request")
    for method in ("PUT", "GET", "DELETE"):
        body = {"opt_in": True, "profile": TRAITS} if method == "PUT" else None
        refusal(ask(app, method, "/v1/strategies/users/7", body), 401, "unauthorized")
    assert ask(app, "GET", "/v1/strategies/users/7", headers=keys["client"]).status_code == 404


def test_withdrawn_consent_deletes_the_profile_and_the_events_with_the_traits(server):
    state, app, keys = server
    ask(app, "PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": TRAITS}, headers=keys["client"])
    for user in (7, 8):
        ask(app, "POST", PATH, REQUEST | {"user": user, "opt_in": True})
    answer = ask(app, "DELETE", "/v1/strategies/users/7", headers=keys["client"]).json()
    assert answer == {"user": 7, "profile": True, "events": 1}
    assert [row.user_key for row in stored(state)] == ["8"]
    again = ask(app, "DELETE", "/v1/strategies/users/7", headers=keys["client"]).json()
    assert again == {"user": 7, "profile": False, "events": 0}


def test_erasing_a_user_erases_the_profile(server):
    state, app, keys = server
    ask(app, "PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": TRAITS}, headers=keys["client"])
    ask(app, "POST", PATH, REQUEST | {"user": 7, "opt_in": True})
    erased = ask(app, "POST", "/v1/admin/users/erase", {"user": 7}, headers=keys["operator"]).json()
    assert (erased["profiles"], erased["ranks"]) == (1, 1)
    with state.store.engine.connect() as connection:
        assert connection.execute(select(strategy_profiles)).all() == []
    assert stored(state) == []


def test_signals_reward_a_strategy_by_its_own_table(server):
    """The strategies know mood_change, which the table [reward] of ranks does not know; ranks know click."""
    state, app, _ = server
    event = ask(app, "POST", PATH, REQUEST).json()["event_id"]
    for signal in ({"type": "like"}, {"type": "mood_change", "value": -0.25}):
        assert ask(app, "POST", f"/v1/events/{event}/reward", signal).json()["status"] == "accepted"
    message = refusal(ask(app, "POST", f"/v1/events/{event}/reward", {"type": "click"}), 422, "invalid_value")
    assert "no weight for the signal 'click'" in message
    assert "mood_change" in message
    refusal(
        ask(app, "POST", f"/v1/events/{event}/reward", {"type": "mood_change", "value": 0.75}), 422, "invalid_value"
    )
    refusal(ask(app, "POST", f"/v1/events/{event}/reward", {"type": "stars"}), 422, "invalid_value")
    with state.store.engine.connect() as connection:
        rows = connection.execute(select(rank_signals.c.type, rank_signals.c.value)).all()
    assert rows == [("like", 1.0), ("mood_change", -0.25)]
    assert 'recpolicy_signals_total{task="strategy",type="like",version="0"} 1.0' in state.metrics.text().decode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"profile": {**TRAITS, "openness": 101}}, "openness is 101; expected 0..100"),
        ({"profile": {"openness": 5}}, "conscientiousness is missing"),
        ({"profile": {**TRAITS, "anger": 1}}, "anger"),
        ({"mood": "furious"}, "mood"), ({"content_type": "book"}, "content_type"),
        ({"time_of_day": "noon"}, "time_of_day"), ({"profile": None, "mood": "furious"}, "mood"),
    ],
)  # fmt: skip
def test_what_the_config_does_not_know_is_one_line(server, change, says):
    message = refusal(ask(server[1], "POST", PATH, REQUEST | change), 422, "invalid_value")
    assert says in message
    assert "\n" not in message
    assert stored(server[0]) == []


@pytest.mark.parametrize(
    "body",
    [{}, {**REQUEST, "profile": {}}, {**REQUEST, "profile": {**TRAITS, "openness": "high"}}, {**REQUEST, "mood": ""},
     {**REQUEST, "profile": {**TRAITS, "openness": True}}, {**REQUEST, "extra": 1}, {**REQUEST, "event_id": ""}, []],
)  # fmt: skip
def test_a_request_of_another_shape_is_refused(server, body):
    refusal(ask(server[1], "POST", PATH, body), 422, "invalid_request")


def test_a_profile_that_the_config_does_not_know_is_not_stored(server):
    state, app, keys = server
    for profile in ({**TRAITS, "openness": -1}, {"openness": 5}):
        body = {"opt_in": True, "profile": profile}
        refusal(ask(app, "PUT", "/v1/strategies/users/7", body, headers=keys["client"]), 422, "invalid_value")
    with state.store.engine.connect() as connection:
        assert connection.execute(select(strategy_profiles)).all() == []


def test_statistics_of_an_untrained_table(server):
    stats = StrategyStats.model_validate(ask(server[1], "GET", "/v1/strategies/stats").json())
    assert (stats.policy.version, stats.total_states, stats.coverage, stats.epsilon) == (None, 0, 0, 0.3)
    assert stats.possible_state_actions == 5**5 * 3 * 6 * 4 * 27


def test_a_server_without_strategies_says_how_to_serve_them(tmp_path):
    with strategist(tmp_path) as (state, app, keys):
        object.__setattr__(state, "strategies", None)
        for method, path, body in (
            ("POST", PATH, REQUEST), ("GET", "/v1/strategies/stats", None), ("GET", "/v1/strategies/users/7", None),
            ("DELETE", "/v1/strategies/users/7", None),
            ("PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": TRAITS}),
        ):  # fmt: skip
            message = refusal(ask(app, method, path, body, headers=keys["client"]), 404, "not_found")
            assert "[strategies]" in message


def test_a_config_of_another_schema_does_not_start(tmp_path):
    config = tmp_path / "strategies.toml"
    config.write_text('[situation]\nmood = ["good", "bad"]\n')
    with strategist(tmp_path / "one") as (state, *_):
        from recpolicy.strategies.artifact import write_strategy_policy

        write_strategy_policy(state.strategies.live.policy, tmp_path / "trained")
        number = state.strategies.registry.register(tmp_path / "trained").number
        state.strategies.registry.promote(number, ungated=True)
    with pytest.raises(ConfigError, match=r"another schema.*mood is"), strategist(tmp_path / "one", config=str(config)):
        pass


def test_traits_are_in_no_log_and_no_metric(server, caplog):
    state, app, keys = server
    odd = dict.fromkeys(TRAITS, 77.125)
    with caplog.at_level(0):
        ask(app, "PUT", "/v1/strategies/users/7", {"opt_in": True, "profile": odd}, headers=keys["client"])
        ask(app, "POST", PATH, REQUEST | {"profile": odd, "user": 7, "opt_in": True})
        ask(app, "POST", PATH, REQUEST | {"profile": {**odd, "openness": 177.125}})
        ask(app, "GET", "/v1/strategies/users/7", headers=keys["client"])
    assert "77.125" not in caplog.text
    assert "77.125" not in state.metrics.text().decode()


def test_an_event_of_a_strategy_is_no_rank(server):
    """Ranks of the caller's actions and strategies share a table; exports of ranks leave strategies out."""
    from recpolicy.data.reward_signals import RewardConfig
    from recpolicy.server.db.feature_export import collect_features

    state, app, _ = server
    ask(app, "POST", PATH, REQUEST)
    reward = RewardConfig(wait_seconds=0.0)
    log, _ = collect_features(state.store.engine, reward, "ranks")
    assert log is None
    log, _ = collect_features(state.store.engine, reward, "strategies", task="strategy")
    assert len(log) == 1
    assert len(log.action_id) == 27


def test_a_line_of_the_spool_keeps_a_strategy_and_older_lines_are_ranks():
    event = strategy_event()
    line = json.loads(rank_event_line(event))
    assert parse_rank_event(line) == event
    old = {name: value for name, value in line.items() if name != "task"}
    assert parse_rank_event(old) == event._replace(task=None)


def test_insertion_of_an_event_by_hand_is_that_of_the_route(server):
    state, _, _ = server
    with transaction(state.store.engine) as connection:
        insert_rank_events(connection, [strategy_event(profile=None)])
    assert json.loads(stored(state)[0].context) == SITUATION
