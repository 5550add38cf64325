"""Databases that hang, are full, vanish or are replaced, and spools that a crash has damaged.

The server answers recommendations all the time, says in /readyz that it does not store, refuses feedback with 503, and
comes back by itself. Nothing that it acknowledged is lost.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from databases import postgres
from event_factory import event
from processes import ServerProcess

from attack.client import address_of, ask
from attack.load import Load, check_stored, count_failures
from attack.session import Session, kill_tree, operator, write_policy
from recpolicy.server.db.spool import Spool
from recpolicy.server.lifespan import DATABASE_URL

DOWN = {
    ("/v1/feedback", 503, "database_unavailable"), ("/v1/feedback", 503, "timeout"),
    ("/v1/feedback", 404, "unknown_event"),
}  # fmt: skip
"""Failures that are right while the database is down: a spooled event is not known yet."""
UNAVAILABLE = ("database_unavailable", "storage_unavailable")
"""Codes of 503 to an operator's change on a full disk."""
SLOW_SECONDS = 8.0
"""Longest time of a recommendation while the database hangs; the server's own limit is 10 s."""


def attack_hanging_database(session: Session) -> None:
    """Stop PostgreSQL's processes, and lock SQLite from another process, under load."""
    seconds = 6.0 if session.quick else 15.0
    database = session.new_database("sqlite")
    server = session.start(**database)
    asyncio.run(_hang(session, server, database, lambda: _sqlite_lock(session.folder / "state" / "server.db"), seconds))
    if session.has_postgres():
        database = session.new_database("postgresql")
        server = session.start(state="postgresql", **database)
        asyncio.run(_hang(session, server, database, _frozen_postgres, seconds))


async def _hang(
    session: Session, server: ServerProcess, database: dict[str, str], freeze: Callable[[], Callable[[], None]],
    seconds: float,
) -> None:  # fmt: skip
    result, what = session.result, next(iter(database.values())).split(":")[0]
    load = Load(address_of(server.url), clients=4, timeout=60).start()
    await load.until(lambda: len(load.feedback) > 20)
    unfreeze = freeze()
    try:
        begun, before = monotonic(), len(load.events)
        ready: list[object] = []
        while monotonic() < begun + seconds:
            await asyncio.sleep(0.5)
            with suppress(TimeoutError, OSError):
                answer = await ask(address_of(server.url), "GET", "/readyz", timeout=2)
                ready.append(answer and (answer.status, b'"down"' in answer.body))
        served = len(load.events) - before
    finally:
        unfreeze()
    result.tries += load.requests
    result.require(served >= 10, f"{what}: {served} recommendations in {seconds:g} s of a hanging database")
    result.require((200, True) in ready or any(s and s[0] == 503 for s in ready), f"{what}: /readyz never said down")
    result.require(load.slowest < SLOW_SECONDS, f"{what}: an answer took {load.slowest:.1f} s")
    await asyncio.to_thread(session.check_alive, server, 30)
    await load.stop()
    count_failures(result, load, DOWN, what)
    await _settle(server)
    check_stored(result, load, database[DATABASE_URL], what)


async def _settle(server: ServerProcess) -> None:
    """Stop the server in the usual way, which writes what waits."""
    server.process.send_signal(signal.SIGTERM)
    for _ in range(300):
        if server.process.poll() is not None:
            return
        await asyncio.sleep(0.05)


def _sqlite_lock(path: Path) -> Callable[[], None]:
    """Take the write lock of a database; returns the function that gives it back."""
    connection = sqlite3.connect(path, timeout=30, isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection.close


def _frozen_postgres() -> Callable[[], None]:
    """Stop all processes of PostgreSQL, as a dead network does; returns the function that wakes them."""
    pids = postgres().pids()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)

    def wake() -> None:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    return wake


def attack_full_disk(session: Session) -> None:
    """Let no file grow, as on a full disk; as root also on a real, small file system."""
    _fill(session, "limit")
    if os.getuid() != 0:
        session.result.not_run.append("the real full disk (tmpfs) needs root")
        return
    mount = session.folder / "disk"
    mount.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mount], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        session.result.not_run.append(f"the real full disk: tmpfs cannot be mounted ({error})")
        return
    try:
        _fill(session, "disk/state")
    finally:
        subprocess.run(["umount", "-l", mount], check=False)


def _fill(session: Session, state: str) -> None:
    result, limited = session.result, not state.startswith("disk")
    database = session.new_database("sqlite", state)
    server = session.start(state=state, source=_small_policy(session), **database)
    folder = session.folder / state

    async def attack() -> Load:
        load = Load(address_of(server.url), clients=4).start()
        await load.until(lambda: len(load.feedback) > 20)
        if limited:
            size = (folder / "server.db").stat().st_size
            subprocess.run(["prlimit", f"--pid={server.process.pid}", f"--fsize={size}:"], check=True)
        else:
            _write_until_full(folder / "ballast")
        await load.until(lambda: load.unstored > 20)
        for path in ("/v1/admin/exploration/pause", "/v1/admin/exploration/resume"):
            answer = await ask(address_of(server.url), "POST", path, {}, operator())
            result.tries += 1
            wrong = answer is None or (answer.status >= 500 and answer.code not in UNAVAILABLE)
            result.require(not wrong, f"{path} on a full disk: {answer and answer.line}", "wrong_5xx")
        if limited:
            subprocess.run(["prlimit", f"--pid={server.process.pid}", "--fsize=unlimited:"], check=True)
        else:
            (folder / "ballast").unlink()
        before = len(load.feedback)
        await load.until(lambda: len(load.feedback) > before + 20)
        await load.stop()
        return load

    load = asyncio.run(attack())
    result.tries += load.requests
    count_failures(result, load, DOWN, state)
    session.check_alive(server)
    asyncio.run(_settle(server))
    again = session.start(state=state, source=_small_policy(session), **database)  # replays what still waits
    check_stored(result, load, database[DATABASE_URL], state)
    kill_tree(again)


def _small_policy(session: Session) -> Path:
    folder = session.folder / "small-policy"
    return folder if folder.exists() else write_policy(folder, users=60, items=80)


def _write_until_full(path: Path) -> None:
    with path.open("wb", buffering=0) as file, suppress(OSError):
        while True:
            file.write(bytes(4096))


def attack_removed_database(session: Session) -> None:
    """Remove the database file of a running server, and put another in its place."""
    for how in ("removed", "replaced"):
        database = session.new_database("sqlite", how)
        server = session.start(state=how, **database)
        asyncio.run(_remove(session, server, how, database[DATABASE_URL]))


async def _remove(session: Session, server: ServerProcess, how: str, url: str) -> None:
    folder = session.folder / how
    path = folder / "server.db"
    load = Load(address_of(server.url), clients=2).start()
    await load.until(lambda: len(load.feedback) > 20)
    if how == "replaced":
        backup = folder / "backup.db"
        with sqlite3.connect(path) as source, sqlite3.connect(backup) as target:
            source.backup(target)
        target.close()
        source.close()
    before = set(load.events)
    for file in folder.glob("server.db*"):
        file.unlink()
    if how == "replaced":
        (folder / "backup.db").rename(path)
    await asyncio.sleep(1.0)
    count = len(load.events)
    await asyncio.sleep(3.0)
    await load.stop()
    session.result.tries += load.requests
    session.result.require(len(load.events) > count, f"{how}: no recommendations after it")
    count_failures(session.result, load, DOWN, how)
    await _settle(server)
    kill_tree(server)
    again = session.start(state=how, **{DATABASE_URL: url})
    await asyncio.to_thread(session.check_alive, again)
    later = Load(("", 0))
    later.events = [event for event in load.events[count:] if event not in before]
    check_stored(session.result, later, url, f"{how}, a second later")


def attack_spool(session: Session) -> None:
    """Start with spool files that a power cut, another program or an old version left; a good one lies behind them."""
    row = '{"id": "%s"}\n'
    damaged: dict[str, bytes] = {
        "half a line": b'{"id": "xx"\n', "zeros": bytes(512) + b"\n", "no object": b"[1, 2]\n7\nnull\n",
        "no UTF-8": b"\xff\xfe\n",
        "lacking columns": (row % ("a" * 32)).encode(), "deep": b"[" * 100_000 + b"\n",
        "long": b"{" + b"x" * 3_000_000 + b"\n",
    }  # fmt: skip
    database = session.new_database("sqlite")
    server = session.start(**database)  # which makes the tables
    kill_tree(server)
    acknowledged = [event() for _ in range(5)]
    folder = session.folder / "state" / "spool"
    writing = Spool(folder)
    writing.append(acknowledged)
    writing.close()
    good = next(file for file in folder.glob("*.jsonl") if file.stat().st_size)
    for name, data in damaged.items():
        session.result.tries += 1
        (folder / f"0-{name}.jsonl").write_bytes(data)  # read before the good one
    (folder / "1-before.jsonl").write_bytes(b'{"id": 7}\n' + good.read_bytes())
    good.unlink()
    (folder / "0-folder.jsonl").mkdir()
    server = session.start(**database)
    session.check_alive(server, 20)
    load = Load(("", 0))
    load.events = [each.id for each in acknowledged]
    check_stored(session.result, load, database[DATABASE_URL], "behind damaged spool files")
    kill_tree(server)
    session.check_alive(session.start(**database), 20)
