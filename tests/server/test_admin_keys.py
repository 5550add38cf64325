"""API keys over HTTP: shown once, revoked at once, and never the last operator's; and the audit of it."""

import asyncio

import httpx
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal, served

from recpolicy.server.app import make_app
from recpolicy.server.auth.keys import key_digest


@pytest.fixture
def app(tmp_path):
    with served(tmp_path) as app:
        yield app


@pytest.fixture
def operator(app):
    return bearing(key_for(app, "operator", "olga"))


def create(app, operator, name, role):
    return ask(app, "POST", "/v1/admin/keys", {"name": name, "role": role}, headers=operator)


def test_a_key_is_shown_once_and_works_at_once(app, operator):
    answer = create(app, operator, "shop", "reader")
    assert answer.status_code == 201
    key = answer.json()["key"]
    assert ask(app, "GET", "/v1/admin/audit", headers=bearing(key)).status_code == 200
    listed = ask(app, "GET", "/v1/admin/keys", headers=operator)
    assert [(one["name"], one["role"], one["revoked_at"]) for one in listed.json()["keys"]] == [
        ("olga", "operator", None), ("shop", "reader", None),
    ]  # fmt: skip
    audit = ask(app, "GET", "/v1/admin/audit", headers=operator)
    for answer in (listed, audit):
        assert key not in answer.text
        assert key_digest(key) not in answer.text


def test_a_revoked_key_stops_at_once_here_and_within_two_seconds_elsewhere(app, operator):
    key = bearing(create(app, operator, "shop", "reader").json()["key"])
    other = make_app(app.state.server)  # as another process would see the same store

    async def both():
        clients = [
            httpx.AsyncClient(transport=httpx.ASGITransport(one), base_url="http://here") for one in (app, other)
        ]
        here, there = clients
        for client in clients:
            assert (await client.get("/v1/admin/audit", headers=key)).status_code == 200
        assert (await here.delete("/v1/admin/keys/shop", headers=operator)).status_code == 200
        at_once = (await here.get("/v1/admin/audit", headers=key)).status_code
        await asyncio.sleep(1.8)
        later = (await there.get("/v1/admin/audit", headers=key)).status_code
        for client in clients:
            await client.aclose()
        return at_once, later

    assert asyncio.run(both()) == (401, 401)


def test_names_are_used_once_also_after_revocation(app, operator):
    create(app, operator, "shop", "client")
    assert "'shop'" in refusal(create(app, operator, "shop", "reader"), 409, "conflict")
    assert ask(app, "DELETE", "/v1/admin/keys/shop", headers=operator).json()["revoked_at"] is not None
    refusal(create(app, operator, "shop", "client"), 409, "conflict")
    refusal(ask(app, "DELETE", "/v1/admin/keys/shop", headers=operator), 409, "conflict")
    refusal(ask(app, "DELETE", "/v1/admin/keys/nobody", headers=operator), 404, "not_found")


def test_the_last_operator_key_stays(app, operator):
    assert "last operator" in refusal(ask(app, "DELETE", "/v1/admin/keys/olga", headers=operator), 409, "conflict")
    create(app, operator, "oskar", "operator")
    assert ask(app, "DELETE", "/v1/admin/keys/oskar", headers=operator).status_code == 200
    refusal(ask(app, "DELETE", "/v1/admin/keys/olga", headers=operator), 409, "conflict")
    assert ask(app, "GET", "/v1/admin/keys", headers=operator).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        {"name": "", "role": "client"}, {"name": "a b", "role": "client"}, {"name": "x" * 65, "role": "client"},
        {"name": "../x", "role": "client"}, {"name": "server ", "role": "client"}, {"name": "x", "role": "root"},
        {"name": "x"}, {"name": "x", "role": "client", "key": "mine"},
    ],
)  # fmt: skip
def test_a_key_that_is_not_as_described_is_refused(app, operator, body):
    refusal(ask(app, "POST", "/v1/admin/keys", body, headers=operator), 422, "invalid_request")


@pytest.mark.parametrize("name", ["server", "environment"])
def test_names_that_mean_somebody_else_are_refused(app, operator, name):
    refusal(create(app, operator, name, "reader"), 409, "conflict")


def test_the_audit_tells_who_did_what_newest_first(app, operator):
    create(app, operator, "shop", "client")
    ask(app, "DELETE", "/v1/admin/keys/shop", headers=operator)
    lines = ask(app, "GET", "/v1/admin/audit?count=2", headers=operator).json()["audit"]
    assert [(line["actor"], line["action"], line["detail"]["name"]) for line in lines] == [
        ("olga", "revoke_key", "shop"), ("olga", "create_key", "shop"),
    ]  # fmt: skip
    assert len(ask(app, "GET", "/v1/admin/audit?count=1", headers=operator).json()["audit"]) == 1
    for count in (0, 1001, "x"):
        refusal(ask(app, "GET", f"/v1/admin/audit?count={count}", headers=operator), 422, "invalid_request")


def test_while_the_database_is_down_it_is_said(app, operator, monkeypatch):
    from sqlalchemy.exc import OperationalError

    def down(*_):
        raise OperationalError("SELECT", {}, Exception("no connection to 192.0.2.1"))

    monkeypatch.setattr("recpolicy.server.db.admin.list_keys", down)
    answer = ask(app, "GET", "/v1/admin/keys", headers=operator)
    assert "192.0.2.1" not in refusal(answer, 503, "database_unavailable")
    assert answer.headers["retry-after"] == "5"
