"""The surroundings of a part: its folder, its servers, their memory, and the checks that follow each attack."""

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
from databases import binaries, postgres
from processes import ADMIN_KEY, ServerProcess
from tiny_policies import tiny_artifact
from unlimited import UNLIMITED_TOML
from waiting import PATIENCE

from attack.client import Address, Client, address_of
from attack.report import PartResult
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.server.db.engine import sqlite_url
from recpolicy.server.lifespan import DATABASE_URL

USERS, ITEMS = 943, 1682
"""Those of MovieLens 100K: answers are as large as the demo's."""
QUIET = "[jobs]\nenabled = false\n"
"""Settings without scheduled jobs, whose processes are not the server."""
NO_RATE = UNLIMITED_TOML + QUIET
PATIENT = NO_RATE.replace("[limits]", f"[limits]\nseconds = {PATIENCE}")
"""For parts that do not attack the time limit: a busy machine is no reason for 503."""
DEAD = re.compile(r"Exception in thread|Task exception was never retrieved|the writer failed|has ended|have ended")
"""Lines of a log that a background task leaves when it ends."""
CRASHES = re.compile(r"Traceback|Exception in ASGI|Fatal Python error")
READ_SECONDS = 0.1


class Session:
    """The surroundings of one part; on exit, no process of it is left."""

    def __init__(self, result: PartResult, folder: Path, policy: Path, seed: int, quick: bool):
        self.result, self.folder, self.policy, self.seed, self.quick = result, folder, policy, seed, quick
        self.servers: list[ServerProcess] = []
        self._memory = MemoryWatch()

    def __enter__(self) -> "Session":
        self._memory.start()
        return self

    def __exit__(self, *_: object) -> None:
        for server in self.servers:
            with suppress(Exception):
                kill_tree(server)
        self._memory.stop()
        self.result.peak_rss_mib = max(self.result.peak_rss_mib, self._memory.peak_mib)

    def start(self, *words, source=None, state="state", settings=NO_RATE, **more) -> ServerProcess:
        """Start a server of the policy whose state lies in the part's folder."""
        server = ServerProcess(source or self.policy, self.folder / state, *words, settings=settings, **more)
        self.servers.append(server)
        self._memory.pids.add(server.process.pid)
        return server

    def new_database(self, kind: str, state: str = "state") -> dict[str, str]:
        """Return the variable that makes a server use a new database of this kind."""
        if kind == "sqlite":
            (self.folder / state).mkdir(parents=True, exist_ok=True)
            return {DATABASE_URL: sqlite_url(self.folder / state / "server.db")}
        return {DATABASE_URL: postgres().new_database()}

    def has_postgres(self) -> bool:
        """Return whether PostgreSQL is installed; note otherwise that its half was not run."""
        if binaries() is None:
            self.result.not_run.append("PostgreSQL: no initdb found (Debian: apt-get install postgresql)")
            return False
        return True

    def check_alive(self, server: ServerProcess, seconds: float = PATIENCE) -> None:
        """Count a server that is gone, does not store within some seconds, or reports a dead task."""
        result = self.result
        if server.process.poll() is not None:
            result.count("dead_tasks", f"the server has ended with {server.process.returncode}")
            return
        problem = eventually(lambda: stores(server), seconds)
        result.require(problem is None, f"after {seconds:g} s: {problem}", "dead_tasks")
        log = server.log.read_text(errors="replace")
        for line in sorted({line[:200] for line in log.splitlines() if DEAD.search(line)}):
            result.count("dead_tasks", f"log: {line}")
        crash = CRASHES.search(log)
        result.require(not crash, f"log: {log[crash.start() : crash.start() + 300]!r}" if crash else "")


def stores(server: ServerProcess) -> str | None:
    """Return the reason why a server is not healthy: it is ready, stores an event and takes feedback; else None."""
    return asyncio.run(_stores(address_of(server.url)))


async def _stores(address: Address) -> str | None:
    try:
        async with Client(address, timeout=12) as client:
            for path in ("/healthz", "/readyz"):
                answer = await client.ask("GET", path)
                if answer is None or answer.status != 200 or answer.json().get("store", "up") != "up":
                    return f"{path} answers {answer and answer.line}"
            answer = await client.ask("POST", "/v1/recommend", {"user": 1, "k": 1})
            if answer is None or answer.status != 200 or answer.json()["event_id"] is None:
                return f"recommend answers {answer and answer.line}"
            feedback = {"event_id": answer.json()["event_id"], "type": "rating", "value": 4.0}
            answer = await client.ask("POST", "/v1/feedback", feedback)
            if answer is None or answer.status != 200 or answer.json()["status"] != "accepted":
                return f"feedback answers {answer and answer.line}"
    except (OSError, TimeoutError) as error:
        return f"no answer: {type(error).__name__} {error}"
    return None


def eventually(problem: Callable[[], str | None], seconds: float) -> str | None:
    """Return None as soon as `problem()` is None, else the last problem after some seconds."""
    limit = time.monotonic() + seconds
    while (found := problem()) is not None:
        if time.monotonic() > limit:
            return found
        time.sleep(0.1)
    return None


class MemoryWatch(threading.Thread):
    """A thread that notes the largest resident memory of the processes and their children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.pids: set[int] = set()
        self.peak_mib = 0.0
        self._ended = threading.Event()

    def run(self) -> None:
        """Read until stopped; the kernel keeps each process's peak, so few readings miss nothing."""
        while not self._ended.wait(READ_SECONDS):
            for pid in tuple(self.pids):
                for each in tree(pid):
                    self.peak_mib = max(self.peak_mib, peak_rss_mib(each))

    def stop(self) -> None:
        """Stop reading."""
        self._ended.set()
        self.join()


def tree(pid: int) -> list[int]:
    """Return a process and its descendants."""
    found = [pid]
    for parent in found:
        with suppress(OSError):
            text = Path(f"/proc/{parent}/task/{parent}/children").read_text()
            found += map(int, text.split())
    return found


def peak_rss_mib(pid: int) -> float:
    """Return the largest resident memory that a process has had; 0 if it is gone."""
    return _status_mib(pid, "VmHWM")


def rss_mib(pid: int) -> float:
    """Return the resident memory of a process; 0 if it is gone."""
    return _status_mib(pid, "VmRSS")


def _status_mib(pid: int, name: str) -> float:
    with suppress(OSError):
        match = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(match[1]) / 1024 if match else 0.0
    return 0.0


def kill_tree(server: ServerProcess) -> None:
    """Kill a server and its workers: the parent first, which would start others."""
    for pid in tree(server.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.stop()


def operator() -> dict[str, str]:
    """Return the headers of an operator."""
    return {"authorization": f"Bearer {ADMIN_KEY}"}


def write_policy(folder: Path, seed: int = 0, users: int = USERS, items: int = ITEMS) -> Path:
    """Write a random policy with as many users and items as the demo's; each user has rated 20 items."""
    artifact = tiny_artifact(seed, users, items)
    rng = np.random.default_rng(seed)
    rated = np.concatenate([rng.permutation(items)[:20] for _ in range(users)]).astype(np.int32)
    artifact = replace(artifact, rated_user=np.repeat(np.arange(users, dtype=np.int32), 20), rated_item=rated)
    folder.mkdir(parents=True)
    write_arrays(artifact, folder)
    (folder / "action").mkdir()
    (folder / "action" / "saved_model.pb").write_bytes(b"graph")
    write_manifest(artifact, folder)
    return folder
