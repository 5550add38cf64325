"""Copies of the database: SQLite by its backup API, PostgreSQL by pg_dump and pg_restore."""

import os
import shutil
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, inspect, text
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import ConfigError, DataError, StoreError
from recpolicy.server.db.engine import make_engine, schema_steps
from recpolicy.server.state_files import DATABASE

SQLITE_FILE, POSTGRES_FILE = DATABASE, "database.dump"
SQLITE_FILES = (SQLITE_FILE, f"{SQLITE_FILE}-wal", f"{SQLITE_FILE}-shm")


def copy_sqlite(source: Path, target: Path) -> None:
    """Copy a database that a server may be writing: all that was committed before, and nothing by halves.

    The copy is one read transaction, so the writer goes on. Raises DataError without a database, StoreError for a
    damaged one.
    """
    if not source.is_file():
        raise DataError(f"{source}: no such file; expected the state folder of a server")
    target.touch(0o600)
    try:
        url = f"{source.absolute().as_uri()}?mode=ro"
        with closing(sqlite3.connect(url, uri=True)) as old, closing(sqlite3.connect(target)) as new:
            old.backup(new)
            new.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        check_sqlite(target)
    except sqlite3.Error as error:
        raise StoreError(f"{source}: the database cannot be copied: {error}") from None


def check_sqlite(path: Path) -> None:
    """Raise StoreError if the pages of a database contradict each other."""
    try:
        with closing(sqlite3.connect(path)) as connection:
            (fault,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        fault = error
    if fault != "ok":
        raise StoreError(f"{path}: the database is damaged: {' '.join(str(fault).split())[:200]}")


def describe(url: str) -> dict[str, Any]:
    """Return the schema and the number of events of a database; raises StoreError."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            schema = connection.scalar(text("SELECT version_num FROM alembic_version"))
            events = connection.scalar(text("SELECT count(*) FROM events"))
    except SQLAlchemyError as error:
        raise StoreError(f"the database has no tables of a server: {type(error).__name__}") from None
    finally:
        engine.dispose()
    return {"schema": schema, "events": events}


def check_schema(schema: Any, where: Path) -> None:
    """Raise DataError for a schema that this version does not know; an older one is updated by the server's start."""
    known = schema_steps()
    if schema not in known:
        raise DataError(
            f"{where}: the database has schema {schema!r}, but this recpolicy knows {known[0]} to {known[-1]}; restore"
            " with the version that made the backup, or a newer one"
        )


def dump_postgres(url: str, target: Path) -> None:
    """Write a dump of a PostgreSQL database; raises ConfigError without pg_dump, StoreError if it fails."""
    target.touch(0o600)
    _run_client(url, "pg_dump", "--format=custom", "--no-owner", "--file", str(target))


def restore_postgres(url: str, source: Path, force: bool) -> None:
    """Fill a PostgreSQL database from a dump, in one transaction; raises ConfigError or StoreError.

    A database that has tables of a server is replaced only with `force`.
    """
    engine = make_engine(url)
    try:
        if not force and _has_tables(engine):
            raise ConfigError("the PostgreSQL database already has tables of a server; --force replaces them")
    except SQLAlchemyError as error:
        raise StoreError(f"the PostgreSQL database does not answer: {type(error).__name__}") from None
    finally:
        engine.dispose()
    words = ("--clean", "--if-exists", "--no-owner", "--single-transaction", "--exit-on-error", str(source))
    _run_client(url, "pg_restore", *words)


def _has_tables(engine: Engine) -> bool:
    return inspect(engine).has_table("events")


def _run_client(url: str, program: str, *words: str) -> None:
    """Run a client program of PostgreSQL. The password goes through the environment: others may see a command line."""
    if shutil.which(program) is None:
        raise ConfigError(
            f"{program} is not installed; install PostgreSQL's client programs (Debian: postgresql-client)"
        )
    engine = make_engine(url)
    address = engine.url.set(drivername="postgresql")
    engine.dispose()
    environment = {**os.environ, **({} if address.password is None else {"PGPASSWORD": str(address.password)})}
    plain = address.set(password=None).render_as_string(hide_password=False)
    ended = subprocess.run(
        [program, "--dbname", plain, *words], env=environment, capture_output=True, text=True, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    if ended.returncode:
        lines = ended.stderr.strip().splitlines()
        raise StoreError(f"{program} failed: {lines[0] if lines else f'exit code {ended.returncode}'}")
