"""The first operator key of a server: from the environment, or generated and printed once. There is no default."""

import os

from recpolicy.core.errors import ConfigError
from recpolicy.server.auth.keys import key_digest, key_problem, new_key
from recpolicy.server.db import audit, keys
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import Store

ADMIN_KEY = "RECPOLICY_ADMIN_KEY"
GIVEN, MADE = "environment", "operator"
"""Names of the key from the environment and of the generated key."""


def ensure_operator_key(store: Store | None) -> str | None:
    """Ensure that an operator key exists; return the key if it was generated now, because it cannot be shown again.

    From now on the key in RECPOLICY_ADMIN_KEY works as `environment`; it replaces the earlier key of that name. Raises
    ConfigError if the key is weak, or if it already exists with a lower role or is revoked.
    """
    given = os.environ.get(ADMIN_KEY) or None  # an empty variable counts as unset
    if given is not None:
        weak = key_problem(given)
        if weak is not None:
            raise ConfigError(f"{ADMIN_KEY} is too weak: {weak}; make one: openssl rand -base64 32")
    if store is None:
        return None
    if given is not None:
        _take(store, given)
        return None
    return _make(store)


def _make(store: Store) -> str | None:
    with transaction(store.engine) as connection:
        if keys.operators(connection):
            return None
        key, name, count = new_key(), MADE, 1
        while keys.named(connection, name) is not None:
            count += 1
            name = f"{MADE}-{count}"
        keys.add(connection, name, "operator", key_digest(key))
        audit.write_audit(connection, audit.SERVER, "create_key", {"name": name, "role": "operator"})
    return key


def _take(store: Store, given: str) -> None:
    digest = key_digest(given)
    with transaction(store.engine) as connection:
        known = keys.with_digest(connection, digest)
        if known is not None and known["role"] == "operator" and known["revoked_at"] is None:
            return
        if known is not None and known["name"] != GIVEN:
            state = "revoked" if known["revoked_at"] is not None else f"a {known['role']}'s"
            raise ConfigError(f"{ADMIN_KEY} is the key {known['name']!r}, which is {state}; choose another one")
        if keys.named(connection, GIVEN) is None:
            keys.add(connection, GIVEN, "operator", digest)
        else:
            keys.give_digest(connection, GIVEN, digest)
        audit.write_audit(connection, audit.SERVER, "take_key", {"name": GIVEN, "role": "operator"})
