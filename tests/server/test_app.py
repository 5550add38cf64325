"""The server as its clients see it: answers of the policy, one shape of errors, and nothing about users in the log."""

import asyncio
import json
import logging
import subprocess
import sys
import threading

import httpx
import numpy as np
import pytest
from client_helpers import ask, refusal, served
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_policies import loaded, trained
from unlimited import UNLIMITED
from waiting import PATIENCE

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.inference.scorer import Prediction
from recpolicy.server.app import make_app
from recpolicy.server.deps import AppState
from recpolicy.server.json_output import JsonFormatter
from recpolicy.server.lifespan import stateless_state
from recpolicy.server.live_models import LiveState, LoadedVersion, ModelManager
from recpolicy.server.metrics import Metrics
from recpolicy.server.schemas.responses import Estimates, Predictions, Recommendation, Recommendations
from recpolicy.server.settings import LimitsConfig, Settings, UsersConfig

MAX_BODY = LimitsConfig().body_bytes
NEWCOMER = [{"item": 1, "rating": 5}, {"item": 2, "rating": 1.5}]


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with served(tmp_path_factory.mktemp("state")) as app:
        yield app


@pytest.fixture(scope="module")
def bare():
    return make_app(stateless_state(trained("linucb"), Settings()))


class Stub:
    """A scorer that says what it is told to say."""

    def __init__(self, answer):
        self.metadata, self.predict = {"agent": "stub", "policy_digest": "0"}, lambda users, learned: answer()
        real = load_scorer(trained("linucb"))
        self.artifact, self.item_ids, self.titles, self.item_row = (
            real.artifact,
            real.item_ids,
            real.titles,
            real.item_row,
        )


def stubbed(answer):
    known_only = Settings(users=UsersConfig(mode="off"))
    return make_app(AppState(ModelManager(LiveState(LoadedVersion(Stub(answer), 1))), None, known_only, Metrics()))


def test_it_says_that_it_lives_and_which_policy_it_serves(app, bare):
    assert ask(app, "GET", "/healthz").json() == {"status": "alive"}
    policy = {
        "version": 1,
        "agent": "linucb",
        "policy_digest": loaded("linucb").metadata["policy_digest"],
        "variant": "champion",
    }
    assert ask(app, "GET", "/readyz").json() == {"status": "ready", "policy": policy, "store": "up"}
    assert ask(bare, "GET", "/readyz").json() == {
        "status": "ready",
        "policy": policy | {"version": None},
        "store": "none",
    }


@pytest.mark.parametrize("items", [[40, 3, 40], [], None])
def test_predict_answers_what_the_policy_says(app, items):
    answer = ask(app, "POST", "/v1/predict", {"users": [9, 7], "items": items})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    Estimates.model_validate(answer.json())
    table = loaded("linucb").predict([9, 7], items)
    assert answer.json()["rows"] == table.to_dict(orient="records")


def test_more_rows_than_are_encoded_at_once_arrive_whole_and_in_order(app):
    rows = ask(app, "POST", "/v1/predict", {"users": list(range(1, 61))}).json()["rows"]
    assert [(row["user_id"], row["item_id"]) for row in rows] == [(u, m) for u in range(1, 61) for m in range(1, 81)]


@pytest.mark.parametrize("exclude_rated", [True, False])
@pytest.mark.parametrize("user", [3, "newcomer"])
def test_recommend_shows_what_the_policy_values_most(bare, user, exclude_rated):
    quiet = Settings(exploration=type(Settings().exploration)(share=0.0))
    app = make_app(stateless_state(trained("linucb"), quiet))
    known = {} if user == 3 else {"ratings": NEWCOMER}
    answer = ask(app, "POST", "/v1/recommend", {"user": user, "k": 4, "exclude_rated": exclude_rated, **known})
    Recommendation.model_validate(answer.json())
    expected = loaded("linucb").recommend(user, 4, exclude_rated, {"newcomer": {1: 5.0, 2: 1.5}})
    for column in ("item_id", "title", "rating", "std"):
        assert [item[column] for item in answer.json()["items"]] == expected[column].tolist()
    assert [item["propensity"] for item in answer.json()["items"]] == [1.0] * 4


def test_what_is_shown_is_explained_by_items_that_the_user_rated(app):
    policy = loaded("linucb").artifact
    rated = set(policy.items["item_id"].iloc[policy.rated_item[policy.rated_user == 2]])
    items = ask(app, "POST", "/v1/recommend", {"user": 3}).json()["items"]
    reasons = {reason["item_id"] for item in items for reason in item["explanations"]}
    assert reasons
    assert reasons <= rated
    (only,) = ask(app, "POST", "/v1/recommend", {"user": "n", "k": 1, "ratings": NEWCOMER}).json()["items"]
    assert [reason["item_id"] for reason in only["explanations"]] == [1]  # the other one was not liked


def test_a_batch_answers_each_request_and_says_which_were_refused(app):
    body = {"requests": [{"user": 3, "k": 1}, {"user": "3"}, {"user": 3, "genres": ["Comdy"]}]}
    answer = ask(app, "POST", "/v1/recommend/batch", body)
    Recommendations.model_validate(answer.json())
    first, second, third = answer.json()["answers"]
    assert len(first["items"]) == 1
    assert second["error"]["code"] == "unknown_id"
    assert "Did you mean 'Comedy'?" in third["error"]["message"]


def test_prediction_servers_are_answered_in_their_form(app):
    instances = [{"user": 3, "k": 2}, {"user": 3, "items": [5, 6]}, {"user": "3"}]
    answer = ask(app, "POST", "/v1/models/recpolicy:predict", {"instances": instances, "parameters": {"x": 1}})
    Predictions.model_validate(answer.json())
    first, second, third = answer.json()["predictions"]
    assert len(first["items"]) == 2
    assert [row["item_id"] for row in second["rows"]] == [5, 6]
    assert third["error"]["code"] == "unknown_id"
    assert ask(app, "GET", "/v1/models/recpolicy").json() == {"name": "recpolicy", "ready": True}


@pytest.mark.parametrize("path", ["/v1/models/recpolicy:predict", "/v1/recommend/batch"])
def test_lists_of_a_batch_are_those_of_single_requests(path):
    quiet = Settings(exploration=type(Settings().exploration)(share=0.0), limits=UNLIMITED.limits)
    single, several = (make_app(stateless_state(trained("linucb"), quiet)) for _ in range(2))
    requests = [{"user": 1 + user % 40, "k": 3 + user % 2, "exclude_rated": user % 3 > 0} for user in range(50)]
    name, answers = ("requests", "answers") if path.endswith("batch") else ("instances", "predictions")
    alone = [ask(single, "POST", "/v1/recommend", request).json()["items"] for request in requests]
    for _ in range(2):  # computed, then cached
        together = ask(several, "POST", path, {name: [*requests, {"user": "3"}]}).json()[answers]
        assert together[-1]["error"]["code"] == "unknown_id"
        for first, second in zip(alone, together[:-1], strict=True):
            assert [item["item_id"] for item in first] == [item["item_id"] for item in second["items"]]
            assert [item["explanations"] for item in first] == [item["explanations"] for item in second["items"]]
            for number in ("rating", "std", "value", "propensity"):
                assert [item[number] for item in first] == pytest.approx([item[number] for item in second["items"]])


@pytest.mark.parametrize("kind", ["application/json; charset=utf-8", "application/vnd.api+json", "text/plain", None])
def test_the_routes_of_prediction_servers_take_the_content_types_that_fastapi_takes(app, kind):
    body, headers = b'{"instances": [{"user": 3, "k": 1}]}', {} if kind is None else {"content-type": kind}
    answer = ask(app, "POST", "/v1/models/recpolicy:predict", content=body, headers=headers)
    expected = ask(app, "POST", "/v1/predict", content=b'{"users": [3], "items": [5]}', headers=headers)
    assert answer.status_code == expected.status_code == (200 if kind and "json" in kind else 422)


def test_vertex_names_the_routes(monkeypatch):
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/guess")
    monkeypatch.setenv("AIP_HEALTH_ROUTE", "/well")
    app = make_app(stateless_state(trained("linucb"), Settings()))
    assert ask(app, "GET", "/well").json() == {"status": "alive"}
    assert ask(app, "POST", "/guess", {"instances": [{"user": 1, "items": [5]}]}).is_success


def test_a_server_that_keeps_nothing_gives_no_event_and_takes_no_feedback(bare):
    assert ask(bare, "POST", "/v1/recommend", {"user": 3}).json()["event_id"] is None
    refusal(ask(bare, "POST", "/v1/feedback", {"event_id": "0" * 32, "type": "like"}), 404, "not_found")


def test_numbers_that_are_not_finite_are_null():
    def odd():
        row = np.full((1, 80), np.nan)
        return Prediction(row + 3.5, row, row, np.nan_to_num(row, nan=0.5), row, np.array([-np.inf]))

    answer = ask(stubbed(odd), "POST", "/v1/predict", {"users": [1], "items": [2]})
    (row,) = answer.json()["rows"]
    assert (row["std"], row["value"], row["rating"], row["probability"]) == (None, None, None, 0.5)
    assert row["session_value"] is None
    Estimates.model_validate(answer.json())


def test_a_session_policy_says_what_it_expects_of_the_session():
    row = np.full((2, 80), 0.5)
    rows = ask(
        stubbed(lambda: Prediction(row, row, None, row, row, np.array([2.5, 1.5]))), "POST", "/v1/predict",
        {"users": [1, 2], "items": [4]},
    ).json()["rows"]  # fmt: skip
    assert [row["session_value"] for row in rows] == [2.5, 1.5]
    assert "value" not in rows[0]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/predict", {}),
        ("/v1/predict", []),
        ("/v1/predict", {"users": []}),
        ("/v1/predict", {"users": [True]}),
        ("/v1/predict", {"users": [1.0]}),
        ("/v1/predict", {"users": [2**63]}),
        ("/v1/predict", {"users": [""]}),
        ("/v1/predict", {"users": ["x" * 201]}),
        ("/v1/predict", {"users": ["a\0b"]}),
        ("/v1/predict", {"users": [1], "items": ["\0"]}),
        ("/v1/recommend", {"user": "\0"}),
        ("/v1/recommend", {"user": 1, "genres": ["Com\0edy"]}),
        ("/v1/recommend", {"user": 1, "exclude": ["\0"]}),
        ("/v1/recommend", {"user": "n", "ratings": [{"item": "\0", "rating": 3}]}),
        ("/v1/feedback", {"event_id": "0" * 32, "item": "\0", "type": "like"}),
        ("/v1/console/items", {"text": "\0"}),
        ("/v1/console/estimates", {"user": 1, "items": ["\0"]}),
        ("/v1/predict", {"users": "7"}),
        ("/v1/predict", {"users": list(range(101))}),
        ("/v1/predict", {"users": [1], "items": [1] * 2001}),
        ("/v1/predict", {"users": [1], "film": [1]}),
        ("/v1/recommend", {"users": [1]}),
        ("/v1/recommend", {"user": 1, "k": True}),
        ("/v1/recommend", {"user": 1, "k": 0}),
        ("/v1/recommend", {"user": 1, "k": 101}),
        ("/v1/recommend", {"user": 1, "k": "5"}),
        ("/v1/recommend", {"user": 1, "exclude_rated": 1}),
        ("/v1/recommend", {"user": 1, "years": [1990]}),
        ("/v1/recommend", {"user": 1, "years": [1999, 1990]}),
        ("/v1/recommend", {"user": 1, "years": [-(10**30), 10**30]}),
        ("/v1/recommend", {"user": 1, "context": [1e308] * 5}),
        ("/v1/recommend", {"user": 1, "ratings": []}),
        ("/v1/recommend", {"user": 1, "ratings": [{"item": 1, "rating": False}]}),
        ("/v1/recommend", {"user": 1, "ratings": [{"item": 1, "rating": 5}] * 2}),
        ("/v1/recommend", {"user": 1, "ratings": NEWCOMER, "context": [0.5]}),
        ("/v1/recommend/batch", {"requests": []}),
        ("/v1/recommend/batch", {"requests": [{"user": 1}] * 101}),
        ("/v1/feedback", {"event_id": "0" * 31, "type": "like"}),
        ("/v1/feedback", {"event_id": "0" * 32, "type": "love"}),
        ("/v1/feedback", {"event_id": "0" * 32, "type": "like", "value": 1.0}),
        ("/v1/feedback", {"event_id": "0" * 32, "type": "rating"}),
        ("/v1/feedback", {"event_id": "0" * 32, "type": "watch_fraction", "value": 1.5}),
        ("/v1/models/recpolicy:predict", {"instances": [{"user": 1, "items": []}]}),
    ],
)
def test_what_is_not_as_described_is_refused_before_the_policy_sees_it(app, path, body):
    assert refusal(ask(app, "POST", path, body), 422, "invalid_request").startswith("body")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"user": 1', 422),
        ('{"user": NaN}', 422),
        ('{"user": 1e999}', 422),
        ('{"user": "n", "ratings": [{"item": 1, "rating": NaN}]}', 422),
        ('{"user": "\\ud800"}', 422),
        ('{"user": 1, "genres": ["\\ud800"]}', 422),
        ('{"user": 1, "genres": ["\\u0000"]}', 422),
        ('{"\\ud800": 1, "user": 1}', 422),
        ('{"user": ' + "9" * 5000 + "}", 400),
        ("[" * 100_000, 400),
        (b'{"user": "\xff"}', 400),
        ("", 422),
    ],
)
def test_bytes_that_are_no_json_of_ours_are_refused(app, body, code):
    answer = ask(app, "POST", "/v1/recommend", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (code, 422)
    refusal(answer, answer.status_code, "invalid_request")


BODIES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["users", "items", "k", "user", "ratings", "context", "history", "type", "x"]), inner
        )
    ),
    max_leaves=8,
)


@given(
    BODIES | st.fixed_dictionaries({"user": st.just(1)}, optional=dict.fromkeys(("k", "context", "history"), BODIES))
)
@settings(max_examples=60)
def test_no_body_makes_the_server_fail(app, body):
    headers = {"content-type": "application/json"}
    for path in ("/v1/predict", "/v1/recommend", "/v1/recommend/batch", "/v1/feedback"):
        answer = ask(app, "POST", path, content=json.dumps(body), headers=headers)
        assert answer.status_code < 500
        json.loads(answer.text, parse_constant=pytest.fail)


def test_unknown_ids_are_named(app):
    answer = ask(app, "POST", "/v1/predict", {"users": [1, "2"]})
    assert "no user with id 2 in this policy; the ids are integers" in refusal(answer, 404, "unknown_id")
    answer = ask(app, "POST", "/v1/predict", {"users": [1], "items": [999]})
    assert "no item with id 999" in refusal(answer, 404, "unknown_id")


def test_a_rating_off_the_scale_is_refused_as_the_library_says_it(app):
    answer = ask(app, "POST", "/v1/recommend", {"user": "n", "ratings": [{"item": 1, "rating": 9}]})
    assert "rating 9 is not in 1..5" in refusal(answer, 422, "invalid_value")


def test_unknown_paths_and_methods_have_the_shape_too(app):
    refusal(ask(app, "GET", "/v1/users/7"), 404, "not_found")
    answer = ask(app, "GET", "/v1/predict")
    refusal(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("told", [True, False])
def test_a_body_that_is_too_large_is_not_read_to_its_end(app, told):
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(64):
            sent += MAX_BODY // 4
            yield b" " * (MAX_BODY // 4)

    headers = {"content-type": "application/json"} | ({"content-length": str(16 * MAX_BODY)} if told else {})
    answer = ask(app, "POST", "/v1/predict", content=pieces(), headers=headers)
    refusal(answer, 413, "too_large")
    assert sent <= 2 * MAX_BODY


def test_a_body_of_just_the_size_is_read(app):
    body = json.dumps({"users": [1], "items": [1]}).ljust(MAX_BODY)
    assert ask(app, "POST", "/v1/predict", content=body, headers={"content-type": "application/json"}).is_success


@pytest.mark.parametrize("error", [ZeroDivisionError("user 7"), ArtifactError("user 7")])
def test_a_failure_of_the_server_is_told_without_its_words(error, caplog):
    def broken():
        raise error

    answer = ask(stubbed(broken), "POST", "/v1/predict", {"users": [7]})
    assert "7" not in refusal(answer, 500, "internal")
    (record,) = caplog.records
    line = json.loads(JsonFormatter().format(record))
    assert (line["level"], line["status"], line["exception"]) == ("error", 500, type(error).__name__)
    assert "test_app.py:" in line["raised_at"]
    assert "user 7" not in JsonFormatter().format(record)


def test_a_setting_that_the_library_refuses_is_the_callers():
    def refuse():
        raise ConfigError("no such thing")

    assert refusal(ask(stubbed(refuse), "POST", "/v1/predict", {"users": [7]}), 422, "invalid_value") == "no such thing"


def test_the_log_says_what_was_asked_but_not_by_whom(app, caplog):
    caplog.set_level(logging.DEBUG, "recpolicy")
    ask(app, "POST", "/v1/recommend", {"user": "newcomer", "ratings": NEWCOMER})
    ask(app, "POST", "/v1/predict?user=newcomer", {"users": ["newcomer"]})
    ask(app, "GET", "/newcomer")
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("recpolicy")]
    said = [(line["method"], line["route"], line["status"]) for line in map(json.loads, lines)]
    assert said == [("POST", "/v1/recommend", 200), ("POST", "/v1/predict", 200), ("GET", "other", 404)]
    assert all(json.loads(line)["ms"] > 0 for line in lines)
    others = [record.getMessage() for record in caplog.records if record.name != "httpx"]  # which is the client here
    assert "newcomer" not in "".join(lines + others)


def test_the_log_of_other_parts_loses_the_words_of_an_exception():
    try:
        raise KeyError("user 7")
    except KeyError:
        record = logging.getLogger("other").makeRecord("other", 40, "f", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonFormatter().format(record))
    assert (line["message"], line["exception"]) == ("failed", "KeyError")
    assert "user 7" not in str(line)


def test_health_is_answered_while_the_policy_computes():
    begun, go_on, answers = threading.Event(), threading.Event(), load_scorer(trained("random")).predict([1])

    def slow():
        begun.set()
        assert go_on.wait(PATIENCE)
        return answers

    app = stubbed(slow)

    async def both():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            computing = asyncio.create_task(client.post("/v1/predict", json={"users": [1], "items": [1]}))
            assert await asyncio.to_thread(begun.wait, PATIENCE)
            alive = await client.get("/healthz")
            still = not computing.done()
            go_on.set()
            return alive.status_code, still, (await computing).status_code

    assert asyncio.run(both()) == (200, True, 200)


def test_openapi_describes_every_operation_parameter_schema_and_field(app):
    page = ask(app, "GET", "/openapi.json").json()
    operations = {f"{method} {path}": one for path, methods in page["paths"].items() for method, one in methods.items()}
    parameters = {f"{at} {each['name']}": each for at, one in operations.items() for each in one.get("parameters", [])}
    schemas = page["components"]["schemas"]
    fields = {f"{name}.{key}": field for name, one in schemas.items() for key, field in one["properties"].items()}
    described = {**operations, **parameters, **schemas, **fields}
    assert len(described) > 250
    assert [name for name, one in described.items() if not one.get("description", "").endswith((".", '"off".'))] == []


def test_openapi_describes_requests_answers_and_errors_with_examples(app):
    page = ask(app, "GET", "/openapi.json").json()
    schemas = page["components"]["schemas"]
    for name, path in (("PredictRequest", "/v1/predict"), ("RecommendRequest", "/v1/recommend")):
        (example,) = schemas[name]["examples"]
        numbers = json.loads(json.dumps(example).replace("196", "7").replace("181", "8").replace("1980", "1900"))
        assert ask(app, "POST", path, numbers).is_success
    posts = [path for path, methods in page["paths"].items() if "post" in methods and "/admin" not in path]
    assert len(posts) >= 6
    for path in posts:
        answers = page["paths"][path]["post"]["responses"]
        assert {"404", "413", "422", "429", "503"} <= set(answers)
        for status in set(answers) - {"200", "201", "204"}:
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/ErrorResponse")
    assert "HTTPValidationError" not in schemas


def test_no_page_loads_scripts_from_elsewhere(app):
    for path in ("/docs", "/redoc"):
        refusal(ask(app, "GET", path), 404, "not_found")


SERVE = """
import asyncio, pathlib, sys
import httpx
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import LimitsConfig, Settings, UsersConfig

async def ask(app):
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        answer = await client.post("/v1/recommend", json={"user": 1})
        assert answer.status_code == 200
        said = {"event_id": answer.json()["event_id"], "type": "rating", "value": 4.0}
        assert (await client.post("/v1/feedback", json=said)).status_code == 200

with open_state(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), Settings()) as state:
    asyncio.run(ask(make_app(state)))
heavy = {"tensorflow", "tf_agents", "myfm", "sklearn", "scipy", "matplotlib", "pandas", "pyarrow"} & set(sys.modules)
assert not heavy, heavy
"""


def test_a_worker_imports_nothing_heavy(tmp_path):
    done = subprocess.run([sys.executable, "-c", SERVE, trained("linucb"), tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_counted_can_be_scraped(tmp_path):
    with served(tmp_path) as app:
        event = ask(app, "POST", "/v1/recommend", {"user": 1}).json()["event_id"]
        ask(app, "POST", "/v1/feedback", {"event_id": event, "type": "rating", "value": 4.0})
        lines = ask(app, "GET", "/metrics").text.splitlines()
    assert 'recpolicy_requests_total{method="POST",route="/v1/recommend",status="200"} 1.0' in lines
    assert 'recpolicy_feedback_total{status="accepted"} 1.0' in lines
    assert "recpolicy_reward_sum_total 3.0" in lines
    assert 'recpolicy_version{alias="champion"} 1.0' in lines
    assert "recpolicy_store_up 1.0" in lines
