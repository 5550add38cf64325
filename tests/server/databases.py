"""Both databases, for tests that must hold on each: SQLite in a file, and PostgreSQL on loopback.

PostgreSQL comes from the system's package (scripts/test installs it where it can). One server a test session and
worker, without fsync; each test gets a database of its own.
"""

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from uuid import uuid4

import pytest
from sqlalchemy import create_engine, func, select

from recpolicy.server.db.engine import make_engine, sqlite_url
from recpolicy.server.db.schema import events, feedback, rewards

MISSING = "PostgreSQL IS NOT TESTED: no initdb found; install it (Debian: apt-get install postgresql)"


def binaries() -> Path | None:
    """The folder of initdb and postgres."""
    found = shutil.which("initdb")
    folders = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "initdb").exists()), None)


class PostgresServer:
    """A server on loopback in a temporary folder."""

    def __init__(self):
        self._bin = binaries()
        self._folder = Path(tempfile.mkdtemp(prefix="recpolicy-postgres-"))
        self._data = self._folder / "data"
        self.port = _free_port()
        if os.getuid() == 0:  # which it refuses to run as
            owner = pwd.getpwnam("postgres")
            os.chown(self._folder, owner.pw_uid, owner.pw_gid)
        self._run("initdb", "-D", self._data, "-U", "test", "-A", "trust", "--no-sync", "-E", "UTF8")
        self.start()

    def start(self):
        """Start, or start again."""
        options = f"-p {self.port} -k {self._folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        self._run("pg_ctl", "-D", self._data, "-o", options, "-l", self._folder / "log", "-w", "start")

    def stop(self):
        """Stop at once, as in a crash."""
        self._run("pg_ctl", "-D", self._data, "-m", "immediate", "-w", "stop")

    def pids(self) -> list[int]:
        """The first process and its children, one for each connection."""
        first = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
        return [first, *map(int, children)]

    @contextlib.contextmanager
    def frozen(self):
        """Stop all its processes, as if they hang: the kernel still accepts connections and data."""
        pids = self.pids()  # the parent first, so that there are no new ones
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"t{uuid4().hex}"
        engine = create_engine(
            f"postgresql+psycopg://test@127.0.0.1:{self.port}/postgres", isolation_level="AUTOCOMMIT"
        )
        with engine.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
        engine.dispose()
        return f"postgresql://test@127.0.0.1:{self.port}/{name}"

    def remove(self):
        """Stop and leave nothing."""
        with contextlib.suppress(subprocess.CalledProcessError):
            self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, program, *words):
        user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        command = [*user, str(self._bin / program), *map(str, words)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd=self._folder)


def _free_port() -> int:
    """Return a free port that the system gives to no client, so that it stays free while the server is stopped."""
    given_to_clients = max(20_000, int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0]))
    chance = random.SystemRandom()
    while True:
        port = chance.randrange(10_000, given_to_clients)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


@cache
def _server() -> PostgresServer:
    import atexit

    server = PostgresServer()
    atexit.register(server.remove)
    return server


def postgres() -> PostgresServer:
    """The server of this process; without its programs the test is skipped, and the summary says so."""
    if binaries() is None:
        pytest.skip(MISSING)
    return _server()


def new_url(kind: str, folder: Path) -> str:
    """The URL of an empty database."""
    return sqlite_url(folder / "server.db") if kind == "sqlite" else postgres().new_database()


def stored_rows(url: str) -> tuple[set[str], set[tuple[str, float]], dict[str, int]]:
    """Return ids of events, (event id, reward) pairs, and the number of rows of events, feedback and rewards."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            ids = set(connection.scalars(select(events.c.id)))
            given = {(row.event_id, row.reward) for row in connection.execute(select(rewards))}
            tables = (events, feedback, rewards)
            counts = {table.name: connection.scalar(select(func.count()).select_from(table)) for table in tables}
    finally:
        engine.dispose()
    return ids, given, counts


KINDS = ("sqlite", "postgresql")
