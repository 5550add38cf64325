"""Callers for tests of the admin API: keys in a store, headers, and a server on a real socket."""

import threading
from contextlib import contextmanager

import uvicorn
from waiting import PATIENCE, wait_until

from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction


def key_for(app, role, name=None):
    """A new key of the app's store."""
    key = new_key()
    with transaction(app.state.server.store.engine) as connection:
        admin.add_key(connection, name or f"{role}-{key[3:9]}", role, key_digest(key))
    app.state.keys.forget()
    return key


def bearing(key):
    """The headers of whoever has this key; None: nobody's."""
    return {} if key is None else {"Authorization": f"Bearer {key}"}


@contextmanager
def listening(app):
    """The app on a free port of loopback: (host, port)."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, access_log=False, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_until(lambda: (server.started and server.servers) or not thread.is_alive(), "the start")
        yield server.servers[0].sockets[0].getsockname()
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
    assert not thread.is_alive()
