"""Changes by administrators on a full disk: 503 with the reason, and the state before."""

import errno
import io
import os
import sqlite3
import tempfile
import zipfile

import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from trained_policies import trained

from recpolicy.registry.model_registry import Registry
from recpolicy.server.app import make_app
from recpolicy.server.lifespan import open_state
from recpolicy.server.settings import Settings

FILES = {
    "promote": ("POST", "/v1/admin/versions/2/promote", None),
    "traffic": ("POST", "/v1/admin/traffic", {"version": 2, "traffic_fraction": 0.1}),
    "pause": ("POST", "/v1/admin/exploration/pause", None),
    "rollout": ("POST", "/v1/admin/rollouts", {"challenger": 2}),
}
ROWS = {
    "new key": ("POST", "/v1/admin/keys", {"name": "shop", "role": "reader"}),
    "revoked key": ("DELETE", "/v1/admin/keys/spare", None),
    "job": ("POST", "/v1/admin/jobs/drift", {}),
    "rollout": ("POST", "/v1/admin/rollouts", {"challenger": 2}),
}


@pytest.fixture
def app(tmp_path):
    """An app over two versions, of which the first is the champion."""
    registry = Registry(tmp_path / "registry")
    for agent in ("linucb", "popular"):
        registry.register(trained(agent), gate={"verdict": "pass"})
    registry.promote(1)
    with open_state(registry.folder, tmp_path / "state", Settings()) as state:
        app = make_app(state)
        key_for(app, "reader", "spare")
        yield app


@pytest.fixture
def operator(app):
    return bearing(key_for(app, "operator", "olga"))


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize(("method", "path", "body"), FILES.values(), ids=FILES)
def test_a_change_whose_file_cannot_be_written_is_refused_with_the_reason(
    method, path, body, app, operator, monkeypatch
):
    before = app.state.server.models.live
    monkeypatch.setattr(tempfile, "mkstemp", full)
    answer = ask(app, method, path, body, headers=operator)
    assert "No space left on device" in refusal(answer, 503, "storage_unavailable")
    assert answer.headers["retry-after"]
    monkeypatch.undo()
    assert app.state.server.models.live == before
    assert ask(app, "POST", "/v1/admin/exploration/pause", headers=operator).status_code == 200


@pytest.mark.parametrize(("method", "path", "body"), ROWS.values(), ids=ROWS)
def test_a_change_whose_row_cannot_be_written_is_refused_with_the_reason(method, path, body, app, operator):
    engine = app.state.server.store.engine

    def refuse(_connection, _cursor, statement, *_):
        if statement.startswith(("INSERT", "UPDATE", "DELETE")):
            raise OperationalError(statement, {}, sqlite3.OperationalError("database or disk is full"))

    event.listen(engine, "before_cursor_execute", refuse)
    answer = ask(app, method, path, body, headers=operator)
    assert refusal(answer, 503, "database_unavailable") == "the disk of the database is full"
    event.remove(engine, "before_cursor_execute", refuse)
    assert ask(app, method, path, body, headers=operator).status_code in (200, 201, 202)


def test_an_import_that_does_not_fit_is_not_the_callers_fault(app, operator, monkeypatch):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as target:
        for path in trained("random").rglob("*"):
            target.write(path, path.relative_to(trained("random")))
    send = {"headers": operator | {"content-type": "application/zip"}, "content": archive.getvalue()}
    monkeypatch.setattr("recpolicy.registry.import_version._unpack", full)
    answer = ask(app, "POST", "/v1/admin/versions/import", **send)
    assert "No space left on device" in refusal(answer, 503, "storage_unavailable")
    monkeypatch.undo()
    assert ask(app, "POST", "/v1/admin/versions/import", **send).status_code == 201


def test_another_failure_of_a_file_is_still_the_servers_fault(app, operator, monkeypatch):
    def missing(*_, **__):
        raise FileNotFoundError(errno.ENOENT, "No such file")

    monkeypatch.setattr(tempfile, "mkstemp", missing)
    refusal(ask(app, "POST", "/v1/admin/exploration/pause", headers=operator), 500, "internal")
