"""The database connection: SQLite in one file by default, PostgreSQL by URL. Opening it first updates the tables.

SQLite runs in WAL mode with synchronous=FULL: an acknowledged commit survives a crash of the process or the machine.
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
from recpolicy.server.db.deadlines import limit_waits, postgresql_options

DRIVERS = {"sqlite": "sqlite", "postgresql": "postgresql+psycopg"}
_BUSY_SECONDS = 5.0
_CONNECT_SECONDS = 3
_WAL_PAGES = 16_000
"""64 MiB, four events a page: commits wait during a checkpoint of the log, so it must not run every second."""
_MIGRATIONS = Path(__file__).parent / "migrations"


def sqlite_url(path: Path) -> str:
    """Return the URL of a database file."""
    return f"sqlite:///{path.absolute()}"


def open_store(url: str, seconds: float | None = None) -> Engine:
    """Return the engine of a database and update its tables.

    Args:
        url: The database.
        seconds: Time limit of the engine's waits for the database (deadlines.py), but not of the update; None: the
            engine waits as long as the database works.

    Raises:
        ConfigError: The kind of URL is unknown, or a driver is missing.
        StoreError: The database cannot be reached or written.
    """
    engine = make_engine(url)
    try:
        migrate(engine)
    except DBAPIError as error:
        engine.dispose()
        raise StoreError(
            f"{redacted_url(engine)}: {first_line(error)}; does the database exist, and is it writable?"
        ) from None
    if seconds is None:
        return engine
    engine.dispose()
    return make_engine(url, seconds)


def make_engine(url: str, seconds: float | None = None) -> Engine:
    """Return an engine that has not connected yet, with a time limit as in `open_store`; raises ConfigError."""
    try:
        address = make_url(url)
    except ArgumentError:
        raise ConfigError(
            "RECPOLICY_DATABASE_URL is not the URL of a database; expected sqlite:///FILE or postgresql://..."
        ) from None
    kind = address.get_backend_name()
    if kind not in DRIVERS:
        raise ConfigError(
            f"RECPOLICY_DATABASE_URL names the unknown database {kind!r}; expected {' or '.join(DRIVERS)}"
        )
    settings: dict[str, Any] = {"pool_timeout": _CONNECT_SECONDS}
    if kind == "postgresql":
        limits = {} if seconds is None else postgresql_options(seconds)
        settings |= {"pool_pre_ping": True, "pool_size": 4, "max_overflow": 2}
        settings["connect_args"] = {"connect_timeout": _CONNECT_SECONDS, **limits}
    try:
        engine = create_engine(address.set(drivername=DRIVERS[kind]), **settings)
    except (ModuleNotFoundError, NoSuchModuleError):
        raise ConfigError("PostgreSQL needs a driver: pip install 'recpolicy[postgres]'") from None
    if kind == "sqlite":
        _tune_sqlite(engine, _BUSY_SECONDS if seconds is None else seconds)
    elif seconds is not None:
        limit_waits(engine, seconds)
    return engine


def migrate(engine: Engine) -> None:
    """Update the tables; if several processes call this at once, one does the work."""
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
            connection.exec_driver_sql("BEGIN IMMEDIATE")  # so that a killed migration leaves no partial changes
        config.attributes["connection"] = connection
        command.upgrade(config, "head")
        connection.commit()


def is_up_to_date(engine: Engine) -> bool:
    """Return True if there is nothing to migrate; does not import Alembic, which loads slowly and stays in memory."""
    with engine.connect() as connection:
        if not inspect(connection).has_table("alembic_version"):
            return False
        return bool(connection.scalar(text("SELECT version_num FROM alembic_version")) == schema_steps()[-1])


def schema_steps() -> list[str]:
    """Return the steps of the migrations, oldest first."""
    return sorted(path.name.partition("_")[0] for path in (_MIGRATIONS / "versions").glob("[0-9]*_*.py"))


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """Open a connection with a transaction that writes."""
    with engine.connect() as connection, transaction_on(connection):
        yield connection


@contextmanager
def transaction_on(connection: Connection) -> Iterator[None]:
    """Run a transaction that writes. SQLite locks at the start, because two transactions that read first would both
    fail.
    """
    try:
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


class CommitLock:
    """A lock that writers of several processes hold while they commit: `with lock: ...`.

    SQLite has its own lock, but its waiters sleep for up to 100 ms at a time. With this lock the operating system wakes
    the next writer. PostgreSQL needs none.
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
        """Close the lock file."""
        if self._file is not None:
            self._file.close()


def upsert(dialect: str, table: Table) -> Any:
    """Return the INSERT of a dialect, which has `on_conflict_do_nothing` and `on_conflict_do_update`."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def redacted_url(engine: Engine) -> str:
    """Return the address of the database without its password."""
    return engine.url.render_as_string(hide_password=True)


def first_line(error: DBAPIError) -> str:
    """Return the first line of the database's message, without the statement and its values."""
    lines = str(error.orig).strip().splitlines()
    return lines[0] if lines else type(error.orig).__name__


@contextmanager
def _one_at_a_time(engine: Engine) -> Iterator[None]:
    if engine.dialect.name == "sqlite":
        with FileLock(f"{engine.url.database}.lock", timeout=60):
            yield
        return
    with engine.connect() as connection:  # the lock ends with its session, even if the process is killed
        connection.exec_driver_sql("SELECT pg_advisory_lock(7265637)")
        yield
        connection.exec_driver_sql("SELECT pg_advisory_unlock(7265637)")


def _tune_sqlite(engine: Engine, busy_seconds: float) -> None:
    @event.listens_for(engine, "connect")
    def tune(connection: sqlite3.Connection, _: Any) -> None:
        connection.isolation_level = None  # this code begins transactions, not the driver
        connection.execute(f"PRAGMA busy_timeout={round(1e3 * busy_seconds)}")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        connection.execute("PRAGMA foreign_keys=ON")
