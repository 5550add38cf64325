"""Opening a server's state: which database goes with which registry."""

import pytest
from databases import KINDS, new_url
from sqlalchemy import select
from trained_policies import trained

from recpolicy.core.errors import StoreError
from recpolicy.server.db import schema
from recpolicy.server.lifespan import DATABASE_URL, open_state
from recpolicy.server.settings import Settings


@pytest.fixture(params=KINDS)
def shared(request, tmp_path, monkeypatch):
    """A database that every server here is told to use."""
    monkeypatch.setenv(DATABASE_URL, new_url(request.param, tmp_path))


def stored_digests(state):
    with state.store.engine.connect() as connection:
        return connection.scalars(select(schema.versions.c.digest)).all()


def test_servers_of_the_same_version_share_a_database(shared, tmp_path):
    with (
        open_state(trained("linucb"), tmp_path / "one", Settings()) as one,
        open_state(trained("linucb"), tmp_path / "two", Settings()) as two,
    ):
        assert stored_digests(one) == stored_digests(two)


def test_a_server_of_another_registry_is_refused_and_changes_nothing(shared, tmp_path):
    with open_state(trained("linucb"), tmp_path / "one", Settings()) as one:
        before = stored_digests(one)
        with (
            pytest.raises(StoreError, match=r"version 1 is another policy .* Use one database per registry"),
            open_state(trained("ucb1"), tmp_path / "two", Settings()),
        ):
            pass
        assert stored_digests(one) == before
