"""The first operator key: made once and shown once, or given and strong. There is none by default."""

import pytest

from recpolicy.core.errors import ConfigError
from recpolicy.server.auth.keys import ensure_operator_key, key_digest
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import Store

STRONG, OTHER = "kT9vR2xQ7mZ4wB8nC3jL6hF1sD5gA0pY", "Lw8Zr3Tq6Yx1Vn5Bm9Kd2Hg7Fs4Jp0Ce"


@pytest.fixture
def store(each_engine):
    return Store(each_engine, None)


def works(store, key):
    with store.engine.connect() as connection:
        return {digest: (name, role) for digest, name, role in admin.active_keys(connection)}.get(key_digest(key))


def test_one_is_made_at_the_first_start_only(store):
    made = ensure_operator_key(store)
    assert works(store, made) == ("operator", "operator")
    assert ensure_operator_key(store) is None
    with store.engine.connect() as connection:
        (line,) = admin.latest_audit(connection, 10)
        stored = str(connection.exec_driver_sql("SELECT * FROM api_keys").all())
    assert (line["actor"], line["action"], line["detail"]["name"]) == ("server", "create_key", "operator")
    assert made not in stored
    assert made not in str(line)


def test_without_any_operator_left_another_is_made(store):
    first = ensure_operator_key(store)
    with transaction(store.engine) as connection:
        admin.revoke_key(connection, "operator")
    second = ensure_operator_key(store)
    assert works(store, first) is None
    assert works(store, second) == ("operator-2", "operator")


def test_a_given_key_works_and_none_is_made(store, monkeypatch):
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", STRONG)
    assert ensure_operator_key(store) is None
    assert ensure_operator_key(store) is None  # again: the same
    assert works(store, STRONG) == ("environment", "operator")


def test_another_given_key_takes_the_place_of_the_one_before(store, monkeypatch):
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", STRONG)
    ensure_operator_key(store)
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", OTHER)
    ensure_operator_key(store)
    assert works(store, STRONG) is None
    assert works(store, OTHER) == ("environment", "operator")


PUBLISHED = "admin-dev-key-change-in-production"  # by an old document


@pytest.mark.parametrize("weak", ["secret", "a" * 64, "changeme-" + STRONG, PUBLISHED])
def test_a_weak_key_stops_the_start_also_without_a_store(monkeypatch, weak):
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", weak)
    with pytest.raises(ConfigError, match="RECPOLICY_ADMIN_KEY is too weak: it ") as caught:
        ensure_operator_key(None)
    assert "\n" not in str(caught.value)
    assert weak not in str(caught.value)


@pytest.mark.parametrize(
    ("role", "revoked", "why"), [("reader", False, "has the role reader"), ("operator", True, "is revoked")]
)
def test_a_key_of_somebody_else_is_not_raised_to_operator(store, monkeypatch, role, revoked, why):
    with transaction(store.engine) as connection:
        admin.add_key(connection, "ben", role, key_digest(STRONG))
        if revoked:
            admin.revoke_key(connection, "ben")
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", STRONG)
    with pytest.raises(ConfigError, match=f"the key 'ben', which {why}"):
        ensure_operator_key(store)


def test_a_key_that_is_set_to_nothing_is_not_set(store, monkeypatch):
    monkeypatch.setenv("RECPOLICY_ADMIN_KEY", "")
    made = ensure_operator_key(store)
    assert works(store, made)[1] == "operator"
