"""Processes that are killed or told to stop while clients wait for them."""

import asyncio
import os
import random
import signal
import time
from contextlib import suppress
from pathlib import Path

from attack.client import address_of
from attack.load import Load, check_stored, count_failures
from attack.session import Session, kill_tree, tree
from recpolicy.server.lifespan import DATABASE_URL

KILLS = 40
STOP_SECONDS = 15.0
"""Time in which a server must end after a signal: it gives requests 10 s."""


def attack_by_kills(session: Session) -> None:
    """Kill all processes at a random moment of a load, start again, compare; with each database, 1 and 2 workers."""
    kinds = ["sqlite", "postgresql"] if session.has_postgres() else ["sqlite"]
    cells = [(kind, workers) for kind in kinds for workers in (1, 2)]
    chance = random.Random(session.seed)
    for kind, workers in cells:
        _kill_often(session, kind, workers, 1 if session.quick else KILLS // len(cells), chance)


def _kill_often(session: Session, kind: str, workers: int, times: int, chance: random.Random) -> None:
    """Kill a server many times; each start replays what the former one left."""
    state = f"{kind}-{workers}"
    database = session.new_database(kind, state)
    sum_of_loads = Load(("", 0))
    for number in range(times):
        server = session.start("--workers", workers, state=state, **database)
        load = Load(address_of(server.url), seed=number)
        asyncio.run(_load_until_killed(server, load, chance.uniform(0.2, 1.0)))
        session.result.tries += 1
        count_failures(session.result, load, what=f"{state} before kill {number}")
        sum_of_loads.events += load.events
        sum_of_loads.feedback += load.feedback
    server = session.start(state=state, **database)
    session.check_alive(server)  # with a replay of the spool
    session.result.require(len(sum_of_loads.feedback) > 10 * times, f"{state}: too few requests to prove anything")
    url = database[DATABASE_URL]
    check_stored(session.result, sum_of_loads, url, state)
    kill_tree(server)
    _check_scraps(session, state)


async def _load_until_killed(server, load: Load, seconds: float) -> None:
    load.start()
    await load.until(lambda: load.feedback)
    await asyncio.sleep(seconds)
    for pid in tree(server.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    await load.stop()


def _check_scraps(session: Session, state: str) -> None:
    """Count locks and spools that dead processes left behind for ever."""
    left = [path.name for path in (session.folder / state / "spool").glob("*.lock")]
    session.result.require(len(left) <= 2, f"{state}: {len(left)} locks of dead processes are left in the spool")


def attack_by_signals(session: Session) -> None:
    """Stop servers by SIGTERM and SIGHUP under load; kill the parent of two workers."""
    for signal_, workers in ((signal.SIGTERM, 1), (signal.SIGTERM, 2), (signal.SIGHUP, 1), (signal.SIGINT, 1)):
        asyncio.run(_stop_under_load(session, signal_, workers))
    _kill_parent(session)


async def _stop_under_load(session: Session, signal_: signal.Signals, workers: int) -> None:
    result, what = session.result, f"{signal_.name}, {workers} workers"
    state = f"{signal_.name}-{workers}"
    database = session.new_database("sqlite", state)
    server = session.start("--workers", workers, state=state, **database)
    load = Load(address_of(server.url)).start()
    await load.until(lambda: len(load.feedback) > 50)
    begun = time.monotonic()
    server.process.send_signal(signal_)
    while server.process.poll() is None and time.monotonic() < begun + STOP_SECONDS:
        await asyncio.sleep(0.05)
    result.tries += 1
    result.require(server.process.poll() == 0, f"{what}: exit code {server.process.poll()} after the signal")
    await load.stop()
    count_failures(result, load, what=what)
    kill_tree(server)
    check_stored(result, load, database[DATABASE_URL], what)


def _kill_parent(session: Session) -> None:
    """The workers must end with their parent, or a restart finds the port taken."""
    server = session.start("--workers", 2, state="parent")
    workers = tree(server.process.pid)[1:]
    session.result.tries += 1
    session.result.require(workers, "a server of two workers has no child processes")
    server.process.kill()
    server.process.wait()
    limit = time.monotonic() + 5
    while left := [pid for pid in workers if _is_alive(pid)]:
        if time.monotonic() > limit:
            session.result.count("other", f"{len(left)} worker processes live on 5 s after their parent was killed")
            break
        time.sleep(0.05)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _is_alive(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
