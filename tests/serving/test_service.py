"""The service as its clients see it: answers of the policy, one shape of errors, and nothing about users in the log."""

import asyncio
import json
import logging
import subprocess
import sys
import threading

import httpx
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trained_policies import loaded, trained

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.serving.predictor import load_policy
from recpolicy.serving.service import make_app
from recpolicy.serving.service_guard import MAX_BODY
from recpolicy.serving.service_log import JsonLines
from recpolicy.serving.service_models import ErrorAnswer, Estimates, Recommendations

NEWCOMER = {"user": "newcomer", "ratings": [{"movie": 1, "rating": 5}, {"movie": 2, "rating": 1.5}]}


def ask(app, method, path, body=None, **words):
    """One request, answered in this process; an exception that the app lets out fails the test."""

    async def one():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            return await client.request(method, path, json=body, **words)

    return asyncio.run(one())


class Stub:
    """A policy that says what it is told to say."""

    about = {"agent": "stub", "content": "0"}  # noqa: RUF012

    def __init__(self, answer):
        self.answer = answer

    def predict(self, users, movies):
        return self.answer()


@pytest.fixture(scope="module")
def app():
    return make_app(loaded("linucb"))


def refusal(answer, status, code):
    """The message of a refusal, which must have the documented shape."""
    assert answer.status_code == status, answer.text
    error = ErrorAnswer.model_validate(answer.json(), extra="forbid").error
    assert error.code == code
    return error.message


def test_it_says_that_it_lives_and_which_policy_it_serves(app):
    assert ask(app, "GET", "/healthz").json() == {"status": "alive"}
    ready = ask(app, "GET", "/readyz").json()
    assert ready == {"status": "ready", "policy": {"name": "linucb", "digest": loaded("linucb").about["content"]}}
    assert len(ready["policy"]["digest"]) == 64


@pytest.mark.parametrize("movies", [[40, 3, 40], [], None])
def test_predict_answers_what_the_policy_says(app, movies):
    answer = ask(app, "POST", "/v1/predict", {"users": [9, 7], "movies": movies})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    Estimates.model_validate(answer.json())
    assert answer.json()["rows"] == loaded("linucb").predict([9, 7], movies).to_dict(orient="records")


def test_more_rows_than_are_encoded_at_once_arrive_whole_and_in_order(app):
    rows = ask(app, "POST", "/v1/predict", {"users": list(range(1, 61))}).json()["rows"]
    assert [(row["user_id"], row["movie_id"]) for row in rows] == [(u, m) for u in range(1, 61) for m in range(1, 81)]


@pytest.mark.parametrize("exclude_rated", [True, False])
def test_recommend_answers_what_the_policy_says(app, exclude_rated):
    body = {"users": [3, "newcomer"], "k": 4, "exclude_rated": exclude_rated, "fold_in": [NEWCOMER]}
    answer = ask(app, "POST", "/v1/recommend", body)
    Recommendations.model_validate(answer.json())
    fold_in = {"newcomer": {1: 5.0, 2: 1.5}}
    expected = loaded("linucb").recommend([3, "newcomer"], 4, exclude_rated, fold_in)
    assert answer.json()["rows"] == expected.to_dict(orient="records")
    assert len(expected) == 8


def test_ten_unrated_movies_are_the_default(app):
    rows = ask(app, "POST", "/v1/recommend", {"users": [3]}).json()["rows"]
    assert rows == loaded("linucb").recommend(3).to_dict(orient="records")


def test_numbers_that_are_not_finite_are_null():
    def odd():
        row = {"user_id": [1], "movie_id": [2], "title": [None], "rating": [3.5], "std": [np.nan], "propensity": [0.5]}
        return pd.DataFrame({**row, "value": [-np.inf]})

    answer = ask(make_app(Stub(odd)), "POST", "/v1/predict", {"users": [1]})
    (row,) = answer.json()["rows"]
    assert (row["title"], row["std"], row["value"], row["rating"]) == (None, None, None, 3.5)
    Estimates.model_validate(answer.json())


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
        ("/v1/predict", {"users": "7"}),
        ("/v1/predict", {"users": list(range(101))}),
        ("/v1/predict", {"users": [1], "movies": [1] * 2001}),
        ("/v1/predict", {"users": [1], "film": [1]}),
        ("/v1/recommend", {"users": [1], "k": True}),
        ("/v1/recommend", {"users": [1], "k": 0}),
        ("/v1/recommend", {"users": [1], "k": 101}),
        ("/v1/recommend", {"users": [1], "k": "5"}),
        ("/v1/recommend", {"users": [1], "exclude_rated": 1}),
        ("/v1/recommend", {"users": [1], "fold_in": [NEWCOMER]}),
        ("/v1/recommend", {"users": ["newcomer"], "fold_in": [NEWCOMER, NEWCOMER]}),
        ("/v1/recommend", {"users": ["n"], "fold_in": [{"user": "n", "ratings": []}]}),
        ("/v1/recommend", {"users": ["n"], "fold_in": [{"user": "n", "ratings": [{"movie": 1, "rating": False}]}]}),
        ("/v1/recommend", {"users": ["n"], "fold_in": [{"user": "n", "ratings": [{"movie": 1, "rating": 5}] * 2}]}),
    ],
)
def test_what_is_not_as_described_is_refused_before_the_policy_sees_it(app, path, body):
    assert refusal(ask(app, "POST", path, body), 422, "invalid_request").startswith("body")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ('{"users": [1]', 422),
        ('{"users": [NaN]}', 422),
        ('{"users": [1e999]}', 422),
        ('{"users": ["n"], "fold_in": [{"user": "n", "ratings": [{"movie": 1, "rating": NaN}]}]}', 422),
        ('{"users": ["\\ud800"]}', 422),
        ('{"\\ud800": 1, "users": [1]}', 422),
        ('{"users": [' + "9" * 5000 + "]}", 400),
        ("[" * 100_000, 400),
        (b'{"users": ["\xff"]}', 400),
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
        | st.dictionaries(st.sampled_from(["users", "movies", "k", "fold_in", "user", "ratings", "x"]), inner)
    ),
    max_leaves=8,
)


@given(BODIES | st.fixed_dictionaries({"users": st.lists(BODIES, max_size=2)}, optional={"k": BODIES}))
@settings(max_examples=60)
def test_no_body_makes_the_service_fail(body):
    app, headers = make_app(loaded("random")), {"content-type": "application/json"}
    for path in ("/v1/predict", "/v1/recommend"):
        answer = ask(app, "POST", path, content=json.dumps(body), headers=headers)
        assert answer.status_code < 500
        json.loads(answer.text, parse_constant=pytest.fail)


def test_unknown_ids_are_named(app):
    answer = ask(app, "POST", "/v1/predict", {"users": [1, 61]})
    assert "no user with id 61" in refusal(answer, 404, "unknown_id")
    answer = ask(app, "POST", "/v1/predict", {"users": [1], "movies": [999]})
    assert "no movie with id 999" in refusal(answer, 404, "unknown_id")


def test_a_rating_off_the_scale_is_refused_as_the_library_says_it(app):
    newcomer = {"user": "n", "ratings": [{"movie": 1, "rating": 9}]}
    answer = ask(app, "POST", "/v1/recommend", {"users": ["n"], "fold_in": [newcomer]})
    assert "rating 9 is not in 1..5" in refusal(answer, 422, "refused")


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
    body = json.dumps({"users": [1], "movies": [1]}).ljust(MAX_BODY)
    assert ask(app, "POST", "/v1/predict", content=body, headers={"content-type": "application/json"}).is_success


@pytest.mark.parametrize("error", [ZeroDivisionError("user 7"), ArtifactError("user 7")])
def test_a_failure_of_the_service_is_told_without_its_words(error, caplog):
    def broken():
        raise error

    answer = ask(make_app(Stub(broken)), "POST", "/v1/predict", {"users": [7]})
    assert "7" not in refusal(answer, 500, "internal")
    (record,) = caplog.records
    line = json.loads(JsonLines().format(record))
    assert (line["level"], line["status"], line["exception"]) == ("error", 500, type(error).__name__)
    assert "test_service.py:" in line["raised_at"]
    assert "user 7" not in JsonLines().format(record)


def test_a_setting_that_the_library_refuses_is_the_callers():
    def refuse():
        raise ConfigError("no such thing")

    assert (
        refusal(ask(make_app(Stub(refuse)), "POST", "/v1/predict", {"users": [7]}), 422, "refused") == "no such thing"
    )


def test_the_log_says_what_was_asked_but_not_by_whom(app, caplog):
    caplog.set_level(logging.DEBUG)
    ask(app, "POST", "/v1/recommend", {"users": ["newcomer"], "fold_in": [NEWCOMER]})
    ask(app, "POST", "/v1/predict?user=newcomer", {"users": ["newcomer"]})
    ask(app, "GET", "/newcomer")
    lines = [JsonLines().format(record) for record in caplog.records if record.name.startswith("recpolicy")]
    said = [(line["method"], line["route"], line["status"]) for line in map(json.loads, lines)]
    assert said == [("POST", "/v1/recommend", 200), ("POST", "/v1/predict", 404), ("GET", "other", 404)]
    assert all(json.loads(line)["ms"] > 0 for line in lines)
    others = [record.getMessage() for record in caplog.records if record.name != "httpx"]  # which is the client here
    assert "newcomer" not in "".join(lines + others)


def test_the_log_of_other_parts_loses_the_words_of_an_exception():
    try:
        raise KeyError("user 7")
    except KeyError:
        record = logging.getLogger("other").makeRecord("other", 40, "f", 1, "failed", (), sys.exc_info())
    line = json.loads(JsonLines().format(record))
    assert (line["message"], line["exception"]) == ("failed", "KeyError")
    assert "user 7" not in str(line)


def test_health_is_answered_while_the_policy_computes():
    begun, go_on = threading.Event(), threading.Event()

    def slow():
        begun.set()
        assert go_on.wait(20)
        return loaded("random").predict(1, [1])

    app = make_app(Stub(slow))

    async def both():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            computing = asyncio.create_task(client.post("/v1/predict", json={"users": [1]}))
            assert await asyncio.to_thread(begun.wait, 20)
            alive = await asyncio.wait_for(client.get("/healthz"), 10)
            still = not computing.done()
            go_on.set()
            return alive.status_code, still, (await computing).status_code

    assert asyncio.run(both()) == (200, True, 200)


def test_openapi_describes_requests_answers_and_errors_with_examples(app):
    page = ask(app, "GET", "/openapi.json").json()
    schemas = page["components"]["schemas"]
    for name in ("PredictRequest", "RecommendRequest"):
        (example,) = schemas[name]["examples"]
        path = "/v1/" + name.removesuffix("Request").lower()
        numbers = json.loads(json.dumps(example).replace("196", "7").replace("181", "8").replace("258", "9"))
        assert ask(app, "POST", path, numbers).is_success
    for path in ("/v1/predict", "/v1/recommend"):
        answers = page["paths"][path]["post"]["responses"]
        assert {"200", "404", "413", "422"} <= set(answers)
        for status in ("404", "413", "422"):
            schema = answers[status]["content"]["application/json"]["schema"]
            assert schema["$ref"].endswith("/ErrorAnswer")
    assert "HTTPValidationError" not in schemas


def test_no_page_loads_scripts_from_elsewhere(app):
    for path in ("/docs", "/redoc"):
        refusal(ask(app, "GET", path), 404, "not_found")


SERVE = """
import asyncio, sys
import httpx
from recpolicy.serving.predictor import load_policy
from recpolicy.serving.service import make_app

async def ask():
    app = make_app(load_policy(sys.argv[1]))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        assert (await client.post("/v1/recommend", json={"users": [1]})).status_code == 200

asyncio.run(ask())
heavy = {"tensorflow", "tf_agents", "tf_keras", "myfm", "sklearn", "scipy", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""


def test_the_service_imports_nothing_of_the_training():
    done = subprocess.run([sys.executable, "-c", SERVE, trained("linucb")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_session_policy_says_what_it_expects_of_the_session(app):
    """Column `value`: planted here, for training a session policy takes long."""
    frame = load_policy(trained("linucb")).predict(1, [1, 2]).assign(value=2.5)
    rows = ask(make_app(Stub(lambda: frame)), "POST", "/v1/predict", {"users": [1]}).json()["rows"]
    assert [row["value"] for row in rows] == [2.5, 2.5]
