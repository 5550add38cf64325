import json

import numpy as np
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal, served
from ranking import REQUEST, ValuePolicy, ranking
from sqlalchemy import select, update

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.rank_request import draw
from recpolicy.server.app import make_app
from recpolicy.server.db.schema import action_rows, rank_events, rank_signals
from recpolicy.server.settings import RankConfig, Settings


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy()) as app:
        yield app


def rows(app, table):
    """Return the rows of a table in the order of writing."""
    with app.state.server.store.engine.connect() as connection:
        return connection.execute(select(table)).all()


def rank(app, **changes):
    """Rank the actions of REQUEST with these changes; return the answer's body."""
    answer = ask(app, "POST", "/v1/rank", REQUEST | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_a_rank_is_stored_before_its_answer(app):
    answer = rank(app, event_id="first", user=7)
    assert answer["event_id"] == "first"
    assert answer["action"] == answer["ranking"][0]["id"]
    assert {each["id"]: each["probability"] for each in answer["ranking"]} == pytest.approx(
        {"a": 0.15, "b": 0.7, "c": 0.15}
    )
    assert answer["policy"] == {
        "version": 1, "agent": "squarecb", "policy_digest": ValuePolicy.policy_digest, "variant": "champion"
    }  # fmt: skip
    (event,) = rows(app, rank_events)
    assert (event.id, event.user_key, event.mode, event.imitated) == ("first", "7", "online", None)
    assert json.loads(event.context) == REQUEST["context"]
    assert np.frombuffer(event.probabilities) == pytest.approx([0.15, 0.7, 0.15])
    assert event.activated_at == event.time
    stored = {row.digest: json.loads(row.row) for row in rows(app, action_rows)}
    digests = [event.offers[start : start + 16] for start in range(0, 48, 16)]
    assert [stored[digest] for digest in digests] == REQUEST["actions"]


def test_an_action_is_stored_once_for_all_events(app):
    for _ in range(3):
        rank(app)
    rank(app, actions=[REQUEST["actions"][0], {"id": "b", "features": {"value": 6}}])
    assert len(rows(app, rank_events)) == 4
    assert len(rows(app, action_rows)) == 4


def test_ids_choose_as_often_as_the_probabilities_say(app):
    chosen = [rank(app, event_id=f"event {number}")["action"] for number in range(300)]
    assert chosen.count("b") / 300 == pytest.approx(0.7, abs=0.1)
    assert chosen.count("a") / 300 == pytest.approx(0.15, abs=0.08)


def test_a_draw_follows_the_probabilities_and_never_takes_an_impossible_action():
    probability = np.array([0.0, 0.25, 0.0, 0.75, 0.0])
    drawn = np.bincount([draw(probability, str(seed)) for seed in range(4_000)], minlength=5)
    assert drawn[[0, 2, 4]].tolist() == [0, 0, 0]
    assert drawn[1] / 4_000 == pytest.approx(0.25, abs=0.03)


def test_excluded_actions_are_neither_ranked_nor_stored(app):
    answer = rank(app, excluded=["b"])
    assert {each["id"] for each in answer["ranking"]} == {"a", "c"}
    assert {json.loads(row.row)["id"] for row in rows(app, action_rows)} == {"a", "c"}


def test_the_same_request_again_gets_the_same_answer_even_from_another_policy(app):
    first = rank(app, event_id="once")
    policy = ValuePolicy()
    policy.policy_digest, policy.probabilities = "e" * 64, lambda *_, **__: (np.array([1.0, 0, 0]), np.zeros(3))
    live = app.state.server.models.live
    app.state.server.models.live = type(live)(type(live.champion)(policy, 2))
    assert rank(app, event_id="once") == first
    assert len(rows(app, rank_events)) == 1
    assert rank(app, event_id="other")["action"] == "a"


def test_an_id_of_another_request_is_a_conflict(app):
    rank(app, event_id="once")
    for changes in ({"excluded": ["a"]}, {"context": {}}, {"deferred": True}, {"user": 1}):
        answer = ask(app, "POST", "/v1/rank", REQUEST | {"event_id": "once"} | changes)
        assert "send another id" in refusal(answer, 409, "conflict")
    assert len(rows(app, rank_events)) == 1


def test_excluded_numbers_and_texts_are_different_requests(app):
    actions = [{"id": identity, "features": {"value": 1}} for identity in (1, "1", "a")]
    body = {"actions": actions, "event_id": "typed", "excluded": [1]}
    assert ask(app, "POST", "/v1/rank", body).status_code == 200
    assert ask(app, "POST", "/v1/rank", body).status_code == 200
    refusal(ask(app, "POST", "/v1/rank", body | {"excluded": ["1"]}), 409, "conflict")


def test_several_signals_of_an_event_are_stored(app):
    event = rank(app)["event_id"]
    for body in ({"value": 0.5}, {"type": "click"}, {"value": -0.25}, {"value": -0.25}):
        answer = ask(app, "POST", f"/v1/events/{event}/reward", body)
        assert answer.json() == {"status": "accepted", "message": ""}
    stored = [(row.type, row.value, row.late) for row in rows(app, rank_signals)]
    assert stored == [("reward", 0.5, False), ("click", 1.0, False), ("reward", -0.25, False), ("reward", -0.25, False)]


def test_a_signal_with_an_id_counts_once(app):
    path = f"/v1/events/{rank(app)['event_id']}/reward"
    statuses = [ask(app, "POST", path, {"value": 1.0, "signal_id": "s"}).json()["status"] for _ in range(2)]
    assert statuses == ["accepted", "duplicate"]
    assert "first one counts" in refusal(ask(app, "POST", path, {"value": 2.0, "signal_id": "s"}), 409, "conflict")
    assert len(rows(app, rank_signals)) == 1


def test_a_late_signal_is_stored_counted_and_ignored(app):
    event = rank(app)["event_id"]
    with app.state.server.store.engine.begin() as connection:
        connection.execute(update(rank_events).values(time=rank_events.c.time - 601_000))
    assert ask(app, "POST", f"/v1/events/{event}/reward", {}).json()["status"] == "late"
    assert [row.late for row in rows(app, rank_signals)] == [True]
    assert 'recpolicy_rank_signals_total{status="late"} 1.0' in ask(app, "GET", "/metrics").text


def test_a_deferred_event_counts_after_its_activation(app):
    event = rank(app, deferred=True)["event_id"]
    assert ask(app, "POST", f"/v1/events/{event}/reward", {}).json()["status"] == "inactive"
    assert rows(app, rank_events)[0].activated_at is None
    statuses = [ask(app, "POST", f"/v1/events/{event}/activate").json()["status"] for _ in range(2)]
    assert statuses == ["activated", "already_active"]
    assert rows(app, rank_events)[0].activated_at is not None
    assert ask(app, "POST", f"/v1/events/{event}/reward", {}).json()["status"] == "accepted"


def test_signals_without_a_key_are_stored_and_not_learned(app):
    event = rank(app)["event_id"]
    ask(app, "POST", f"/v1/events/{event}/reward", {})
    ask(app, "POST", f"/v1/events/{event}/reward", {}, headers=bearing(key_for(app, "client")))
    assert [row.online for row in rows(app, rank_signals)] == [False, True]


def test_ids_may_have_slashes(app):
    rank(app, event_id="shop/42/activate")
    assert ask(app, "POST", "/v1/events/shop/42/activate/reward", {}).json()["status"] == "accepted"
    assert ask(app, "POST", "/v1/events/shop/42/activate/activate", {}).json()["status"] == "already_active"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"actions": []}, "at least 1 item"),
        ({"actions": [{"features": {}}]}, "actions.0.id"),
        ({"actions": [{"id": "a"}, {"id": "a"}]}, "two actions have the id 'a'"),
        ({"actions": [{"id": str(number)} for number in range(1001)]}, "at most 1000"),
        ({"excluded": ["z"]}, "the excluded id 'z' is no action of the request"),
        ({"actions": [{"id": "a", "features": [1]}]}, "features"),
        ({"actions": [{"id": "", "features": {}}]}, "expected an id"),
        ({"context": 3}, "context"),
        ({"event_id": ""}, "event_id"),
        ({"event_id": "x" * 257}, "event_id"),
        ({"event_id": "a\0"}, "NUL"),
        ({"deferred": 1}, "deferred"),
        ({"features": {}}, "features"),
    ],
)
def test_a_malformed_request_is_one_line(app, changes, message):
    assert message in refusal(ask(app, "POST", "/v1/rank", REQUEST | changes), 422, "invalid_request")
    assert rows(app, rank_events) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"excluded": ["a", "b", "c"]}, "no action is left"),
        ({"actions": [{"id": "a", "features": {"value": "five"}}]}, "feature value: found a text; expected a number"),
    ],
)
def test_what_the_policy_does_not_accept_is_one_line(app, changes, message):
    assert message in refusal(ask(app, "POST", "/v1/rank", REQUEST | changes), 422, "invalid_value")
    assert rows(app, rank_events) == []
    assert rows(app, action_rows) == []


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
@pytest.mark.parametrize("place", ["context", "actions"])
def test_a_number_that_is_not_finite_is_one_line(app, number, place):
    body = json.dumps(REQUEST).replace("20" if place == "context" else "5", number)
    answer = ask(app, "POST", "/v1/rank", content=body, headers={"content-type": "application/json"})
    assert "NaN or infinite" in refusal(answer, 422, "invalid_value")
    assert rows(app, rank_events) == []


def test_texts_may_have_any_words(app):
    rank(app, context={"text": "NaN and Infinity { [ é \u2028"})
    assert json.loads(rows(app, rank_events)[0].context) == {"text": "NaN and Infinity { [ é \u2028"}


def test_features_that_no_log_takes_are_one_line(app):
    deep = 1
    for _ in range(30):
        deep = [deep]
    for changes in ({"context": {"a": deep}}, {"actions": [{"id": 1, "features": {"a": deep}}]}):
        assert "20 levels" in refusal(ask(app, "POST", "/v1/rank", REQUEST | changes), 422, "invalid_value")
    wide = {"a": [[1]] * 30}
    rank(app, context=wide)


@pytest.mark.parametrize("depth", [150, 5_000])
def test_deep_features_are_no_failure_of_the_server(app, depth):
    body = '{"actions":[{"id":1}],"context":{"a":' + "[" * depth + "]" * depth + "}}"
    answer = ask(app, "POST", "/v1/rank", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 422), answer.text


@pytest.mark.parametrize(
    ("event", "body", "status", "code"),
    [
        ("unknown", {}, 404, "unknown_event"),
        ("1%00", {}, 422, "invalid_request"),
        ("known", {"value": 7.5}, 422, "invalid_value"),
        ("known", {"value": -0.5}, 422, "invalid_value"),
        ("known", {"type": "applause"}, 422, "invalid_value"),
        ("known", {"value": "1"}, 422, "invalid_request"),
        ("known", {"value": 1e7}, 422, "invalid_request"),
        ("known", {"reward": 1}, 422, "invalid_request"),
        ("known", {"type": "a b"}, 422, "invalid_request"),
        ("known", {"signal_id": ""}, 422, "invalid_request"),
    ],
)
def test_a_faulty_reward_is_one_line(tmp_path, event, body, status, code):
    reward = RewardConfig(weights={"reward": 1.0}, min_reward=0.0, max_reward=5.0)
    with ranking(tmp_path / "registry", ValuePolicy(), reward) as app:
        rank(app, event_id="known")
        refusal(ask(app, "POST", f"/v1/events/{event}/reward", body), status, code)
        assert rows(app, rank_signals) == []


def test_the_reward_nan_is_one_line(app):
    event = rank(app)["event_id"]
    answer = ask(app, "POST", f"/v1/events/{event}/reward", content='{"value":NaN}',
                 headers={"content-type": "application/json"})  # fmt: skip
    refusal(answer, 422, "invalid_request")
    refusal(ask(app, "POST", "/v1/events/unknown/activate"), 404, "unknown_event")


def test_a_policy_of_ratings_takes_no_ranks_and_one_of_features_recommends_nothing(app, tmp_path):
    with served(tmp_path / "items") as items:
        assert "/v1/recommend" in refusal(ask(items, "POST", "/v1/rank", REQUEST), 409, "wrong_policy_kind")
        refusal(ask(items, "POST", "/v1/events/x/reward", {}), 404, "unknown_event")
    for path, body in (
        ("/v1/recommend", {"user": 1}), ("/v1/predict", {"users": [1]}),
        ("/v1/models/recpolicy:predict", {"instances": [{"user": 1, "items": [1]}]}),
        ("/v1/feedback", {"event_id": "0" * 32, "type": "like"}),
    ):  # fmt: skip
        assert "/v1/rank" in refusal(ask(app, "POST", path, body), 409, "wrong_policy_kind")
    assert ask(app, "GET", "/readyz").json()["policy"]["agent"] == "squarecb"


def test_the_pages_for_operators_open(app):
    page = ask(app, "GET", "/openapi.json").json()["paths"]
    assert "/v1/rank" in page
    for path in ("/", "/operations"):
        assert ask(app, "GET", path).status_code == 200, path
    operator = bearing(key_for(app, "operator"))
    for path, methods in page.items():
        if path.startswith("/v1/admin") and "get" in methods and "{" not in path:
            assert ask(app, "GET", path, headers=operator).status_code < 500, path


def test_a_registry_without_a_version_ranks_at_random(tmp_path):
    with ranking(tmp_path / "registry") as app:
        answer = rank(app)
        assert (answer["policy"]["agent"], answer["policy"]["version"]) == ("uniform", None)
        assert [each["probability"] for each in answer["ranking"]] == pytest.approx([1 / 3] * 3)
        assert rows(app, rank_events)[0].version == 0
        assert "promote" not in ask(app, "GET", "/readyz").text


@pytest.mark.parametrize("mode", ["apprentice", "logging_only"])
def test_the_baseline_is_the_first_action_that_is_not_excluded(tmp_path, mode):
    with ranking(tmp_path / "registry", ValuePolicy(), mode=mode) as app:
        for excluded, baseline in ([], "a"), (["a"], "b"):
            answer = rank(app, excluded=excluded)
            assert (answer["action"], answer["mode"]) == (baseline, mode)
            assert answer["ranking"][0]["probability"] == 1
        assert [row.imitated for row in rows(app, rank_events)] == [False, True]


def test_exploration_is_added_to_that_of_the_policy(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy(), exploration=0.3) as app:
        answer = rank(app)
        assert {each["id"]: each["probability"] for each in answer["ranking"]} == pytest.approx(
            {"a": 0.205, "b": 0.59, "c": 0.205}
        )


def test_a_server_without_a_store_ranks_and_takes_no_rewards(app):
    state = app.state.server
    alone = make_app(type(state)(state.models, None, state.settings, type(state.metrics)()))
    assert rank(alone)["event_id"] is None
    refusal(ask(alone, "POST", "/v1/events/x/reward", {}), 404, "not_found")


def test_a_rank_costs_as_many_requests_as_it_has_hundreds_of_actions(app):
    state = app.state.server
    limits = type(state.settings.limits)(rate=1, burst=12)
    slow = make_app(type(state)(state.models, None, Settings(limits=limits, rank=RankConfig()), type(state.metrics)()))
    body = {"actions": [{"id": number} for number in range(600)]}
    assert ask(slow, "POST", "/v1/rank", body).status_code == 200
    assert ask(slow, "POST", "/v1/rank", body).status_code == 200
    refusal(ask(slow, "POST", "/v1/rank", body), 429, "rate_limited")
