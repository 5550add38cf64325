import subprocess
import sys
import threading
from contextlib import closing

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from databases import KINDS, new_url
from sqlalchemy import inspect, text
from sqlalchemy.exc import IntegrityError
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError, StoreError
from recpolicy.server.db.engine import (
    CommitLock,
    is_up_to_date,
    make_engine,
    migrate,
    open_store,
    sqlite_url,
    transaction,
)
from recpolicy.server.db.schema import metadata


def test_the_migrations_lead_to_the_tables_of_today(each_engine):
    engine = each_engine
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, metadata) == []
    migrate(engine)  # again: nothing to do
    assert set(inspect(engine).get_table_names()) == {*metadata.tables, "alembic_version"}


def test_sqlite_waits_for_the_disk_and_lets_readers_read(engine):
    with engine.connect() as connection:
        assert connection.scalar(text("PRAGMA journal_mode")) == "wal"
        assert connection.scalar(text("PRAGMA synchronous")) == 2  # FULL
        assert connection.scalar(text("PRAGMA foreign_keys")) == 1


def test_a_transaction_that_fails_leaves_nothing(each_engine):
    engine = each_engine
    row = text("INSERT INTO schedules (name, cron, next_at) VALUES ('a', '* * * * *', 1)")

    def twice():
        with transaction(engine) as connection:
            connection.execute(row)
            connection.execute(row)

    with pytest.raises(IntegrityError):
        twice()
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM schedules")) == 0


OPEN = "import sys; from recpolicy.server.db.engine import open_store; open_store(sys.argv[1])"


@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_start_at_once_migrate_once(kind, tmp_path):
    url = new_url(kind, tmp_path)
    processes = [subprocess.Popen([sys.executable, "-c", OPEN, url]) for _ in range(3)]
    assert [process.wait(PATIENCE) for process in processes] == [0, 0, 0]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("not a url", "expected sqlite:///FILE or postgresql://"),
        ("mysql://u:secret@h/d", "the unknown database 'mysql'"),
    ],
)
def test_an_url_of_something_else_is_refused_without_its_password(url, said):
    with pytest.raises(ConfigError, match=said) as refused:
        make_engine(url)
    assert "secret" not in str(refused.value)


def test_a_database_that_is_not_there_is_one_line_without_the_password():
    with pytest.raises(StoreError) as refused:
        open_store("postgresql://u:secret@127.0.0.1:9/d")
    assert "127.0.0.1:9" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_no_database_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "a.db").write_text("these are not the tables you look for" * 100)
    with pytest.raises(StoreError, match="not a database"):
        open_store(sqlite_url(tmp_path / "a.db"))
    assert (tmp_path / "a.db").read_text().startswith("these are not")


def test_a_migration_that_was_killed_leaves_no_half(tmp_path, monkeypatch, new_engine):
    from alembic import op

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(op, "create_table", _after(op.create_table, 3, killed))
    engine = new_engine(sqlite_url(tmp_path / "a.db"))
    with pytest.raises(KeyboardInterrupt):
        migrate(engine)
    engine.dispose()  # as the killed process would
    assert inspect(new_engine(sqlite_url(tmp_path / "a.db"))).get_table_names() == []


def _after(function, times, then):
    calls = iter(range(times))

    def wrapped(*words, **settings):
        return function(*words, **settings) if next(calls, None) is not None else then()

    return wrapped


@pytest.mark.parametrize("kind", KINDS)
def test_an_up_to_date_database_is_known_without_alembic(kind, tmp_path, new_engine):
    engine = new_engine(new_url(kind, tmp_path))
    assert not is_up_to_date(engine)
    migrate(engine)
    assert is_up_to_date(engine)
    with transaction(engine) as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0001'"))
    assert not is_up_to_date(engine)


def test_one_writer_commits_at_a_time_on_sqlite(engine):
    done = []
    with closing(CommitLock(engine)) as one, closing(CommitLock(engine)) as two:

        def wait_and_commit():
            with two:
                done.append("two")

        with one:
            thread = threading.Thread(target=wait_and_commit)
            thread.start()
            thread.join(0.1)
            done.append("one")
        thread.join()
    assert done == ["one", "two"]
