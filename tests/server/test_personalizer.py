"""The Personalizer routes, by the real clients of the retired service against a real server on loopback."""

import json
import tarfile
from dataclasses import replace
from datetime import datetime

import pytest
from api_keys import key_for, listening
from client_helpers import ask, refusal
from ranking import ValuePolicy, ranking
from sqlalchemy import insert, select
from tiny_policies import write_tiny

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import rank_evaluations, rank_events, rank_signals
from recpolicy.server.rank.durations import format_duration, parse_duration
from recpolicy.server.rank.personalizer import merge_features
from recpolicy.server.rank.service import stored_learning_settings
from recpolicy.server.routes import admin_versions

KEY = "Ocp-Apim-Subscription-Key"
REWARD = RewardConfig(weights={"reward": 1.0}, wait_seconds=600)
ACTIONS = [
    {"id": name, "features": [{"value": value}, {"kind": {"color": "red"}}]}
    for name, value in (("a", 1), ("b", 5), ("c", 2))
]
CONTEXT = [{"time": {"hour": 20}}, {"device": "phone"}]


@pytest.fixture
def app(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy(), REWARD) as app:
        yield app


@pytest.fixture
def endpoint(app):
    with listening(app) as (host, port):
        yield f"http://{host}:{port}"


def rows(app, table):
    with app.state.server.store.engine.connect() as connection:
        return connection.execute(select(table)).all()


@pytest.fixture
def old(app, endpoint):
    """The client of version 1.0, with the key of a client."""
    personalizer = pytest.importorskip("azure.cognitiveservices.personalizer", reason="the client is not installed")
    authentication = pytest.importorskip("msrest.authentication")
    credentials = authentication.ApiKeyCredentials(in_headers={KEY: key_for(app, "client")})
    with personalizer.PersonalizerClient(endpoint, credentials) as client:
        yield client


@pytest.fixture
def new(app, endpoint):
    """The client of the version 2022-09-01-preview."""
    personalizer = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    credentials = pytest.importorskip("azure.core.credentials")
    with personalizer.PersonalizerClient(endpoint, credentials.AzureKeyCredential(key_for(app, "client"))) as client:
        yield client


@pytest.fixture
def operator(app, endpoint):
    """The client of the administration."""
    personalizer = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    credentials = pytest.importorskip("azure.core.credentials")
    key = credentials.AzureKeyCredential(key_for(app, "operator"))
    with personalizer.PersonalizerAdministrationClient(endpoint, key) as client:
        yield client


def test_the_old_client_ranks_rewards_and_activates(app, old):
    from azure.cognitiveservices.personalizer.models import RankableAction, RankRequest

    request = RankRequest(
        actions=[RankableAction(**action) for action in ACTIONS], context_features=CONTEXT, excluded_actions=["c"],
        event_id="order 1", defer_activation=True,
    )  # fmt: skip
    answer = old.rank(rank_request=request)
    assert answer.event_id == "order 1"
    assert [action.id for action in answer.ranking][2] == "c"
    assert sum(action.probability for action in answer.ranking) == pytest.approx(1)
    assert answer.ranking[2].probability == 0
    assert answer.reward_action_id in ("a", "b")
    assert old.events.activate(answer.event_id) is None
    assert old.events.reward(event_id=answer.event_id, value=0.5) is None
    (event,) = rows(app, rank_events)
    assert json.loads(event.context) == {"time": {"hour": 20}, "device": "phone"}
    assert event.activated_at is not None
    assert [(row.type, row.value, row.online) for row in rows(app, rank_signals)] == [("reward", 0.5, True)]


def test_the_old_client_understands_errors(old):
    from azure.cognitiveservices.personalizer.models import ErrorResponseException, RankableAction, RankRequest
    from msrest.exceptions import HttpOperationError

    twice = RankRequest(actions=[RankableAction(id="a", features=[{}]), RankableAction(id="a", features=[{}])])
    with pytest.raises(ErrorResponseException) as caught:
        old.rank(twice)
    assert caught.value.error.error.code == "invalid_request"
    assert "two actions have the id 'a'" in caught.value.error.error.message
    with pytest.raises(HttpOperationError) as caught:
        old.events.reward("unknown", 1.0)
    assert caught.value.response.status_code == 404


def test_the_new_client_ranks_rewards_and_activates(app, new):
    answer = new.rank({"actions": ACTIONS, "contextFeatures": CONTEXT, "eventId": "n/1", "deferActivation": True})
    assert answer["eventId"] == "n/1"
    assert answer["ranking"][0]["id"] == answer["rewardActionId"]
    assert {each["id"]: each["probability"] for each in answer["ranking"]} == pytest.approx(
        {"a": 0.15, "b": 0.7, "c": 0.15}
    )
    assert new.activate("n/1") is None
    assert new.reward("n/1", {"value": 0.25}) is None
    assert rows(app, rank_signals)[0].value == 0.25
    assert new.rank({"actions": ACTIONS})["eventId"]


SLOTS = [
    {"id": "top", "baselineAction": "a", "features": [{"size": "large"}], "excludedActions": ["c"]},
    {"id": "side", "baselineAction": "c", "features": [{"size": "small"}]},
]


def test_the_new_client_fills_slots_without_repetition(app, new):
    body = {"actions": ACTIONS, "contextFeatures": CONTEXT, "slots": SLOTS, "eventId": "slots"}
    answer = new.rank_multi_slot(body | {"deferActivation": True})
    chosen = [slot["rewardActionId"] for slot in answer["slots"]]
    assert [slot["id"] for slot in answer["slots"]] == ["top", "side"]
    assert len(set(chosen)) == 2
    assert chosen[0] != "c"
    assert new.activate_multi_slot("slots") is None
    rewards = [{"slotId": "side", "value": 0.5}, {"slotId": "top", "value": 1.0}]
    assert new.reward_multi_slot("slots", {"reward": rewards}) is None
    events = rows(app, rank_events)
    assert [(event.slot, event.slot_id) for event in events] == [(0, "top"), (1, "side")]
    assert [json.loads(event.context)["slot"] for event in events] == [{"size": "large"}, {"size": "small"}]
    assert [(row.slot, row.value) for row in rows(app, rank_signals)] == [(1, 0.5), (0, 1.0)]
    assert new.rank_multi_slot(body | {"deferActivation": True}) == answer  # the same request again


def test_the_key_is_checked(app, endpoint):
    personalizer = pytest.importorskip("azure.ai.personalizer", reason="the client is not installed")
    from azure.core.credentials import AzureKeyCredential
    from azure.core.exceptions import ClientAuthenticationError, HttpResponseError

    with (
        personalizer.PersonalizerAdministrationClient(endpoint, AzureKeyCredential("wrong")) as nobody,
        pytest.raises(ClientAuthenticationError),
    ):
        nobody.get_service_configuration()
    key = AzureKeyCredential(key_for(app, "client"))
    with (
        personalizer.PersonalizerAdministrationClient(endpoint, key) as client,
        pytest.raises(HttpResponseError) as caught,
    ):
        client.delete_logs()
    assert caught.value.status_code == 403


def test_every_route_of_the_administration_needs_its_role(app):
    page = ask(app, "GET", "/openapi.json").json()["paths"]
    free = ("rank", "reward", "activate")
    calls = [
        (method.upper(), path.replace("{", "").replace("}", ""))
        for path, methods in page.items() for method in methods
        if path.startswith("/personalizer") and not path.endswith(free)
    ]  # fmt: skip
    assert len(calls) >= 19
    reader, client = key_for(app, "reader"), key_for(app, "client")
    for method, path in calls:
        for prefix in ("/personalizer", "/personalizer/v1.0"):
            at = path.replace("/personalizer", prefix)
            assert ask(app, method, at).status_code == 401, at
            assert ask(app, method, at, headers={KEY: client}).status_code == 403, at
            assert method == "GET" or ask(app, method, at, headers={KEY: reader}).status_code == 403, at


def test_a_server_that_needs_keys_needs_them_here_too(tmp_path):
    with ranking(tmp_path / "other", ValuePolicy(), REWARD) as app:
        state = app.state.server
        limits = replace(state.settings.limits, require_key=True)
        closed = make_app(replace(state, settings=replace(state.settings, limits=limits)))
        body = {"actions": ACTIONS}
        refusal(ask(closed, "POST", "/personalizer/rank", body), 401, "unauthorized")
        refusal(ask(closed, "POST", "/v1/rank", {"actions": [{"id": 1}]}), 401, "unauthorized")
        assert ask(closed, "POST", "/personalizer/rank", body, headers={KEY: key_for(app, "client")}).status_code == 201


def test_the_configuration_is_read_and_changed(app, operator, new):
    before = operator.get_service_configuration()
    assert (before["rewardWaitTime"], before["learningMode"], before["logRetentionDays"]) == ("PT10M", "Online", -1)
    wanted = before | {
        "rewardWaitTime": "PT1H", "defaultReward": 0.125, "rewardAggregation": "earliest",
        "explorationPercentage": 0.5, "learningMode": "Apprentice",
    }  # fmt: skip
    after = operator.update_service_configuration(wanted)
    assert {name: after[name] for name in wanted} == wanted
    assert after["lastConfigurationEditDate"]
    assert new.rank({"actions": ACTIONS})["rewardActionId"] == "a"
    assert new.rank({"actions": ACTIONS, "excludedActions": ["a"]})["rewardActionId"] == "b"
    new.reward(rows(app, rank_events)[1].id, {"value": 1.0})
    metrics = operator.get_service_configuration()["latestApprenticeModeMetrics"]
    assert (metrics["numberOfEvents"], metrics["numberOfImitatedEvents"]) == (2, 1)
    assert (metrics["sumOfRewards"], metrics["sumOfImitatedRewards"]) == (1.125, 1.0)
    other = type(app.state.server.rank)(app.state.server.settings)  # as another process reads it
    other.load(app.state.server.store.engine)
    assert (other.current.mode, other.current.reward.wait_seconds) == ("apprentice", 3600.0)


def test_a_window_of_the_settings_file_stays_while_others_change(app, operator):
    settings = app.state.server.rank
    settings.of_file = replace(settings.of_file, reward=replace(settings.of_file.reward, wait_seconds=2.0))
    settings.load(app.state.server.store.engine)
    after = operator.update_service_configuration(
        {**operator.get_service_configuration(), "learningMode": "LoggingOnly"}
    )
    assert (after["rewardWaitTime"], after["learningMode"]) == ("PT2S", "LoggingOnly")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewardWaitTime": "PT1S"}, "expected PT5S to P2D"),
        ({"rewardWaitTime": "10 minutes"}, "expected a duration such as PT10M"),
        ({"explorationPercentage": 20}, "explorationPercentage"),
        ({"rewardAggregation": "average"}, "rewardAggregation"),
        ({"learningMode": "Fast"}, "learningMode"),
        ({"logRetentionDays": 7}, "[store] keep_days"),
        ({"isAutoOptimizationEnabled": True}, "isAutoOptimizationEnabled"),
        ({"defaultReward": None}, "defaultReward"),
    ],
)
def test_a_faulty_configuration_changes_nothing(app, change, message):
    headers = {KEY: key_for(app, "operator")}
    path = "/personalizer/configurations/service?api-version=2022-09-01-preview"
    before = ask(app, "GET", path, headers=headers).json()
    answer = ask(app, "PUT", path, before | change, headers=headers)
    assert answer.status_code == 422
    assert message in answer.json()["error"]["message"]
    assert ask(app, "GET", path, headers=headers).json() == before


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "events/1%00/reward", {"value": 1}),
        ("POST", "events/1%00/activate", {}),
        ("POST", "multislot/events/1%00/activate", {}),
        ("GET", "evaluations/1%00", None),
        ("DELETE", "evaluations/1%00", None),
        ("GET", "featureImportances/1%00", None),
        ("DELETE", "featureImportances/1%00", None),
    ],
)
def test_an_id_that_a_database_cannot_hold_is_refused(app, method, path, body):
    headers = {KEY: key_for(app, "operator")}
    assert "NUL" in refusal(ask(app, method, f"/personalizer/{path}", body, headers=headers), 422, "invalid_request")


def test_one_import_at_a_time(app):
    headers = {KEY: key_for(app, "operator")}
    with admin_versions._importing:
        refusal(ask(app, "PUT", "/personalizer/model", content=b"x", headers=headers), 429, "overloaded")
    assert ask(app, "PUT", "/personalizer/model", content=b"x", headers=headers).status_code != 429


def test_a_model_of_ratings_is_refused_before_it_is_registered(app, tmp_path):
    policy, archive = write_tiny(tmp_path / "ratings", 0), tmp_path / "ratings.tar"
    with tarfile.open(archive, "w") as opened:
        opened.add(policy, "policy")
    registry = app.state.server.require_registry()
    before = [version.number for version in registry.versions()]
    answer = ask(
        app, "PUT", "/personalizer/model", content=archive.read_bytes(), headers={KEY: key_for(app, "operator")}
    )
    assert (answer.status_code, "not a policy of features" in answer.text) == (422, True)
    assert [version.number for version in registry.versions()] == before


def test_logs_have_a_span_and_are_deleted(app, operator, new):
    assert operator.get_log_properties() == {"dateRange": {}}
    new.rank({"actions": ACTIONS})
    span = operator.get_log_properties()["dateRange"]
    assert datetime.fromisoformat(span["from"]) <= datetime.fromisoformat(span["to"])
    assert operator.delete_logs() is None
    assert rows(app, rank_events) == []
    assert operator.get_log_properties() == {"dateRange": {}}


def test_learning_settings_are_shown_set_and_reset(app, operator):
    from azure.core.exceptions import HttpResponseError

    champion = {"name": "squarecb", "arguments": "--agent squarecb"}
    assert operator.get_policy() == champion
    wanted = {"name": "mine", "arguments": "--agent lints --scale 0.5 --max-weight=10"}
    stored = wanted | {"arguments": "--agent lints --scale 0.5 --max_weight 10"}
    assert operator.update_policy(wanted) == stored
    other = type(app.state.server.rank)(app.state.server.settings)  # as another process reads it
    other.load(app.state.server.store.engine)
    assert other.current.learning == stored == stored_learning_settings(app.state.server.store.engine)
    for faulty, message in (
        ("--cb_explore_adf --epsilon 0.2", "options of `recpolicy train`"), ("--agent lint", "Did you mean 'lints'"),
        ("--agent lints --scale " + "1" * 4_000, "at most 4000 characters"), ("--agent lints \x00", "NUL"),
    ):  # fmt: skip
        with pytest.raises(HttpResponseError, match=message):
            operator.update_policy({"name": "other", "arguments": faulty})
    assert operator.get_policy() == stored
    assert operator.reset_policy() == champion
    assert operator.get_policy() == champion


def test_only_what_an_evaluation_trained_is_applied(app, operator):
    from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="no evaluation with this id"):
        operator.apply_from_evaluation({"evaluationId": "e", "policyName": "p"})
    policies = [
        {"name": "logged", "source": "Online", "value": 0.5, "lo": 0.4, "hi": 0.6},
        {"name": "mine", "source": "Custom", "value": 0.5, "lo": 0.4, "hi": 0.6, "folder": "0", "gate": "fail",
         "gate_reasons": ["gain 0: expected more"], "arguments": "--agent lints"},
    ]  # fmt: skip
    rows_of = {"start_time": 0, "end_time": 1, "created_at": now_ms(), "kind": "evaluation", "name": "n"}
    with transaction(app.state.server.store.engine) as connection:
        for name, status, result in (("r", "Running", None), ("f", "Failed", {"reason": "x"}),
                                     ("e", "Succeeded", {"policies": policies})):  # fmt: skip
            row = {**rows_of, "id": name, "status": status, "result": None if result is None else json.dumps(result)}
            connection.execute(insert(rank_evaluations).values(row))
    for identity, name, status, message in (
        ("r", "mine", 409, "the evaluation is Running"), ("f", "mine", 409, "the evaluation is Failed"),
        ("e", "other", 404, "it trained: mine"), ("e", "logged", 422, "did not train logged"),
        ("e", "mine", 409, "the gate of mine says fail: gain 0: expected more. Nothing was registered"),
    ):  # fmt: skip
        with pytest.raises(HttpResponseError, match=message) as caught:
            operator.apply_from_evaluation({"evaluationId": identity, "policyName": name})
        assert caught.value.status_code == status
    with pytest.raises(HttpResponseError, match="files of this evaluation are not on this server"):
        operator.apply_from_evaluation({"evaluationId": "e", "policyName": "mine"}, params={"ungated": "true"})
    assert app.state.server.require_registry().versions() == []


@pytest.mark.parametrize(
    ("policies", "message"),
    [
        ([{"name": "a", "arguments": "--agent lints"}] * 2, "the name 'a' occurs twice"),
        ([{"name": "champion", "arguments": "--agent lints"}], "'champion' names another policy"),
        ([{"name": "optimized", "arguments": "--agent lints"}], "'optimized' names another policy"),
        ([{"name": "a", "arguments": "--cb_adf"}], "options of `recpolicy train`"),
        ([{"name": str(n), "arguments": "--agent lints"} for n in range(11)], "at most 10 items"),
    ],
)
def test_faulty_policies_of_an_evaluation_begin_nothing(app, policies, message):
    body = {"name": "n", "startTime": "2026-01-01", "endTime": "2026-01-02", "policies": policies}
    headers = {KEY: key_for(app, "operator")}
    answer = ask(app, "PUT", "/personalizer/evaluations/e", body, headers=headers)
    assert message in refusal(answer, 422, "invalid_request")
    assert rows(app, rank_evaluations) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": [SLOTS[0], SLOTS[0]]}, "two slots have the id 'top'"),
        ({"slots": [SLOTS[0], SLOTS[1] | {"baselineAction": "a"}]}, "two slots have the baselineAction 'a'"),
        ({"slots": [SLOTS[0] | {"baselineAction": "z"}]}, "'z' is no action of the request"),
        ({"slots": [SLOTS[0] | {"baselineAction": "c"}]}, "the baselineAction 'c' is excluded"),
        ({"slots": []}, "at least 1 item"),
        ({"slots": [SLOTS[0] | {"features": [1]}]}, "features"),
        ({"actions": []}, "at least 1 item"),
    ],
)
def test_faulty_slots_are_one_line(app, change, message):
    body = {"actions": ACTIONS, "slots": SLOTS} | change
    answer = ask(app, "POST", "/personalizer/multislot/rank", body)
    assert message in refusal(answer, 422, "invalid_request")
    assert rows(app, rank_events) == []


def test_more_slots_than_actions_are_one_line(app):
    slots = [{"id": name, "baselineAction": name} for name in ("a", "b", "c")]
    slots[2]["excludedActions"] = ["a"]
    body = {"actions": ACTIONS[:2], "slots": slots[:2]}
    assert ask(app, "POST", "/personalizer/multislot/rank", body).status_code == 201
    body = {
        "actions": ACTIONS,
        "slots": [slot | {"excludedActions": ["b", "c"]} for slot in ({"id": "one", "baselineAction": "a"},)]
        + [
            {"id": "two", "baselineAction": "b", "excludedActions": ["c"]},
            {"id": "three", "baselineAction": "c", "excludedActions": ["b"]},
        ],
    }
    assert ask(app, "POST", "/personalizer/multislot/rank", body).status_code == 201


def test_a_reward_of_an_unknown_slot_is_one_line(app):
    ask(app, "POST", "/personalizer/multislot/rank", {"actions": ACTIONS, "slots": SLOTS, "eventId": "e"})
    path = "/personalizer/multislot/events/e/reward"
    refusal(ask(app, "POST", path, {"reward": [{"slotId": "other", "value": 1}]}), 404, "unknown_slot")
    refusal(ask(app, "POST", path, {"reward": [{"slotId": "top", "value": "x"}]}), 422, "invalid_request")
    refusal(ask(app, "POST", path, {"reward": []}), 422, "invalid_request")
    assert rows(app, rank_signals) == []


def test_features_of_a_list_become_one_object():
    parts = [{"user": {"age": 3}, "x": 1}, {"user": {"city": "Bonn"}}, {"x": 2}]
    assert merge_features(parts) == {"user": {"age": 3, "city": "Bonn"}, "x": 2}
    assert merge_features(None) == {}


@pytest.mark.parametrize(
    ("text", "seconds", "written"),
    [
        ("PT10M", 600, "PT10M"), ("P1DT2H3M4S", 93_784, "P1DT2H3M4S"), ("PT0.5S", 0.5, "PT0.5S"),
        ("00:10:00", 600, "PT10M"), ("1.02:00:00", 93_600, "P1DT2H"), ("P2D", 172_800, "P2D"), ("PT0S", 0, "PT0S"),
    ],
)  # fmt: skip
def test_durations(text, seconds, written):
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == written


@pytest.mark.parametrize("text", ["", "P", "PT", "10", "PT10", "-PT1S", "P1M", 600, None])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="such as PT10M"):
        parse_duration(text)
