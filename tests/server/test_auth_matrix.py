"""Who may call what of the admin API: every route that the app has, with every kind of key."""

import re

import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal, served

from recpolicy.server.app import make_app
from recpolicy.server.auth.keys import new_key
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.lifespan import stateless_state
from recpolicy.server.settings import Settings

OPERATORS_ONLY = ("/v1/admin/keys",)
"""What a reader may not even look at."""
ONLY_LOOKS = ("/v1/admin/compare",)
"""What takes a body, and changes nothing."""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with served(tmp_path_factory.mktemp("state")) as app:
        yield app


def routes_of(app):
    """All routes, also those of routers that the app holds as they are."""
    return [route for one in app.routes for route in getattr(getattr(one, "original_router", None), "routes", [one])]


def may_look(method, path):
    """Whether a reader may."""
    return path in ONLY_LOOKS or (method == "GET" and path not in OPERATORS_ONLY)


@pytest.fixture(scope="module")
def calls(app):
    """(method, path, whether a reader may) of every route under /v1/admin."""
    found = [
        (method, re.sub(r"{[^}]*}", "1", route.path), may_look(method, route.path))
        for route in routes_of(app)
        if route.path.startswith("/v1/admin")
        for method in sorted(route.methods)
    ]
    assert len(found) >= 20
    return found


def test_the_matrix_has_every_route_that_openapi_knows(app, calls):
    page = ask(app, "GET", "/openapi.json").json()["paths"]
    known = {
        (method.upper(), re.sub(r"{[^}]*}", "1", path))
        for path, operations in page.items()
        for method in operations
        if path.startswith("/v1/admin")
    }
    assert known <= {(method, path) for method, path, _ in calls}


@pytest.mark.parametrize("kind", ["none", "unknown", "revoked", "empty", "basic"])
def test_without_a_key_that_works_every_route_answers_401(app, calls, kind):
    revoked = key_for(app, "operator", f"revoked for {kind}")
    with transaction(app.state.server.store.engine) as connection:
        admin.revoke_key(connection, f"revoked for {kind}")
    app.state.keys.forget()
    headers = {
        "none": {}, "unknown": bearing(new_key()), "revoked": bearing(revoked), "empty": {"X-API-Key": ""},
        "basic": {"Authorization": "Basic b3BlcmF0b3I6cHc="},
    }[kind]  # fmt: skip
    for method, path, _ in calls:
        answer = ask(app, method, path, headers=headers)
        refusal(answer, 401, "unauthorized")
        assert answer.headers["www-authenticate"].startswith("Bearer"), path


def test_a_client_is_forbidden_everything(app, calls):
    headers = bearing(key_for(app, "client"))
    for method, path, _ in calls:
        said = refusal(ask(app, method, path, headers=headers), 403, "forbidden")
        assert "has the role client" in said


def test_a_reader_may_look_and_change_nothing(app, calls):
    headers = bearing(key_for(app, "reader"))
    for method, path, may in calls:
        answer = ask(app, method, path, headers=headers)
        if may:
            assert answer.status_code not in (401, 403), path
            assert answer.status_code < 500, path
        else:
            refusal(answer, 403, "forbidden")


def test_an_operator_is_forbidden_nothing(app, calls):
    headers = bearing(key_for(app, "operator"))
    key_for(app, "operator")  # so that none is the last
    for method, path, _ in calls:
        answer = ask(app, method, path, headers=headers)
        assert answer.status_code not in (401, 403), path
        assert answer.status_code < 500, path


def test_a_body_that_is_no_json_does_not_come_before_the_key(app, calls):
    for method, path, _ in calls:
        if method == "POST":
            answer = ask(app, method, path, content=b"{", headers={"content-type": "application/json"})
            refusal(answer, 401, "unauthorized")


def test_what_is_not_there_needs_a_key_too(app):
    refusal(ask(app, "GET", "/v1/admin/nothing"), 401, "unauthorized")
    refusal(ask(app, "GET", "/v1/admin/nothing", headers=bearing(key_for(app, "reader"))), 404, "not_found")


def test_both_headers_are_taken(app):
    key = key_for(app, "reader")
    assert ask(app, "GET", "/v1/admin/audit", headers={"X-API-Key": key}).status_code == 200
    assert ask(app, "GET", "/v1/admin/audit", headers={"authorization": f"bearer {key}"}).status_code == 200


def test_a_server_that_keeps_nothing_lets_nobody_in(calls):
    from trained_policies import trained

    bare = make_app(stateless_state(trained("linucb"), Settings()))
    for method, path, _ in calls:
        refusal(ask(bare, method, path, headers=bearing(new_key())), 401, "unauthorized")


def test_openapi_says_that_a_key_is_needed_and_what_is_refused(app):
    page = ask(app, "GET", "/openapi.json").json()
    assert {"Bearer", "X-API-Key"} <= set(page["components"]["securitySchemes"])
    described = {path: one for path, one in page["paths"].items() if path.startswith("/v1/admin")}
    lacking = [
        (path, method)
        for path, operations in described.items()
        for method, operation in operations.items()
        if "security" not in operation or not {"401", "403"} <= set(operation["responses"])
    ]
    assert described
    assert lacking == []
