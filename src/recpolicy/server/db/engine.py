"""Opening the store: SQLite in one file by default, PostgreSQL by URL; tables are brought up to date first.

SQLite runs in WAL mode with synchronous=FULL: what a commit acknowledged survives a crash of process or machine.
"""

import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from sqlalchemy import Connection, Engine, Table, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from recpolicy.core.errors import ConfigError, StoreError

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_BUSY_MS = 5_000
_CONNECT_SECONDS = 3
_WAL_PAGES = 16_000
"""64 MiB, four events a page: commits wait while the log is carried over, and should not every second."""
_MIGRATIONS = Path(__file__).parent / "migrations"


def sqlite_url(path: Path) -> str:
    """The URL of a database file."""
    return f"sqlite:///{path.absolute()}"


def open_store(url: str) -> Engine:
    """An engine over a database whose tables are up to date.

    Raises ConfigError for a URL that is not one of a known kind or whose driver is missing, StoreError where the
    database cannot be reached or written.
    """
    engine = make_engine(url)
    try:
        migrate(engine)
    except DBAPIError as error:
        engine.dispose()
        raise StoreError(f"{redacted_url(engine)}: {first_line(error)}; is the database there and writable?") from None
    return engine


def make_engine(url: str) -> Engine:
    """An engine that has not spoken to its database yet; raises ConfigError."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "RECPOLICY_DATABASE_URL: not a URL of a database; expected sqlite:///FILE or postgresql://..."
        ) from None
    kind = address.get_backend_name()
    if kind not in DRIVERS:
        raise ConfigError(f"RECPOLICY_DATABASE_URL: {kind!r} is no database known here; expected {', '.join(DRIVERS)}")
    settings: dict[str, Any] = {}
    if kind == "postgresql":
        settings |= {"pool_pre_ping": True, "pool_size": 4, "max_overflow": 2, "pool_timeout": _CONNECT_SECONDS}
        settings["connect_args"] = {"connect_timeout": _CONNECT_SECONDS}
    try:
        engine = create_engine(address.set(drivername=DRIVERS[kind]), **settings)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise ConfigError("PostgreSQL needs its driver: pip install 'recpolicy[postgres]'") from None
    if kind == "sqlite":
        _tune_sqlite(engine)
    return engine


def migrate(engine: Engine) -> None:
    """Bring the tables up to date; several processes may ask at once, one does it."""
    if engine.dialect.name == "sqlite" and engine.url.database:
        Path(engine.url.database).parent.mkdir(parents=True, exist_ok=True)
    if is_up_to_date(engine):
        return
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with _one_at_a_time(engine), engine.connect() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            connection.commit()
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # so that a killed migration leaves nothing half-done
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def is_up_to_date(engine: Engine) -> bool:
    """Whether there is nothing to migrate; without Alembic, which takes a while to load and stays in memory."""
    steps = sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        return bool(connection.scalar(text("SELECT version_num FROM alembic_version")) == steps[-1])


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """A transaction that writes, on a connection of its own."""
    with engine.connect() as connection, transaction_on(connection):
        yield connection


@contextmanager
def transaction_on(connection: Connection) -> Iterator[None]:
    """A transaction that writes. SQLite takes its lock at the start: two that had read first could only fail."""
    try:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


class CommitLock:
    """What the writers of several processes take turns by, and hold while they commit: `with turns: ...`.

    SQLite has a lock of its own, but who waits for it sleeps up to 100 ms at a time; here the system wakes the next.
    PostgreSQL needs none.
    """

    def __init__(self, engine: Engine):
        sqlite = engine.dialect.name == "sqlite"
        self._file = Path(f"{engine.url.database}.turn").open("ab") if sqlite else None  # noqa: SIM115 - see close

    def __enter__(self) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            self._file.close()


def upsert(connection: Connection, table: Table) -> Any:
    """Return the dialect's INSERT, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return (postgresql if connection.dialect.name == "postgresql" else sqlite).insert(table)


def redacted_url(engine: Engine) -> str:
    """The database's address without its password."""
    return engine.url.render_as_string(hide_password=True)


def first_line(error: DBAPIError) -> str:
    """What the database said, in one line, without the statement and its values."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        with FileLock(f"{engine.url.database}.lock", timeout=60):
            yield
        return
    with engine.connect() as connection:  # the lock of a session ends with it, also when the process is killed
        connection.exec_driver_sql("SELECT pg_advisory_lock(7265637)")
        yield
        connection.exec_driver_sql("SELECT pg_advisory_unlock(7265637)")


def _tune_sqlite(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def tune(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where we say so
        connection.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        connection.execute("PRAGMA foreign_keys=ON")
