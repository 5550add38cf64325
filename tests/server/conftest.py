"""Fixtures of the server tests: stores that are closed at the end of a test, also of one that fails.

An open connection to PostgreSQL is a ResourceWarning, and so a failure of whichever test runs when it is collected.
"""

import gc

import pytest
from databases import KINDS, new_url

from recpolicy.server.db.engine import make_engine, open_store


@pytest.fixture(scope="module", autouse=True)
def leaks_fail_here():
    """Collect garbage at the end of each file, so that what it left open is its failure, not that of another file."""
    yield
    gc.collect()


@pytest.fixture
def new_engine():
    """Make engines over URLs, which need not be stores yet."""
    engines = []

    def make(url):
        engines.append(make_engine(url))
        return engines[-1]

    yield make
    for engine in engines:
        engine.dispose()


@pytest.fixture
def engine(tmp_path):
    """A store in an SQLite file."""
    engine = open_store(new_url("sqlite", tmp_path))
    yield engine
    engine.dispose()


@pytest.fixture(params=KINDS)
def each_engine(request, tmp_path):
    """The same test on each kind of database."""
    engine = open_store(new_url(request.param, tmp_path))
    yield engine
    engine.dispose()
