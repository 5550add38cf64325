"""Clients that recommend and rate while the server is attacked, and the comparison with what is stored afterwards."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from time import perf_counter

from databases import stored_rows

from attack.client import Address, Answer, Client
from attack.report import PartResult

USERS = 60
REPLAY_SECONDS = 10.0
"""Time in which a started server must have replayed what waits in its spool."""


class Load:
    """Clients with one connection each; notes what the server acknowledges, and each answer that is no success."""

    def __init__(self, address: Address, clients: int = 8, seed: int = 0, feedback: bool = True, timeout: float = 30.0):
        self.events: list[str] = []
        """Acknowledged events."""
        self.feedback: list[tuple[str, float]] = []
        """Acknowledged feedback: event and rating."""
        self.unstored = 0
        """Recommendations with `event_id` null."""
        self.failures: Counter[tuple[str, int, str | None]] = Counter()
        """Number of answers that are no success, by route, status and error code."""
        self.slowest = 0.0
        """Longest time until an answer, in seconds."""
        self.cut = 0
        """Connections that ended without an answer."""
        self._address, self._feedback, self._timeout = address, feedback, timeout
        self._chance = random.Random(seed)
        self._stop = False
        self._clients = clients
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def requests(self) -> int:
        """Number of answered recommendations and feedback."""
        return len(self.events) + len(self.feedback) + self.unstored + sum(self.failures.values())

    def start(self) -> "Load":
        """Start the clients."""
        self._tasks = [asyncio.create_task(self._run()) for _ in range(self._clients)]
        return self

    async def until(self, condition: Callable[[], object], seconds: float = 60.0) -> None:
        """Wait for a condition while the clients run; raises TimeoutError."""
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.01)

    async def stop(self) -> None:
        """Let the clients finish their requests."""
        self._stop = True
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self) -> None:
        async with Client(self._address, timeout=self._timeout) as client:
            while not self._stop:
                with suppress(OSError):
                    await self._ask_pair(client)
                    continue
                self.cut += 1
                await asyncio.sleep(0.05)

    async def _ask_pair(self, client: Client) -> None:
        """Ask for a list and rate its first item twice, as a client that tries again."""
        answer = await self._ask(client, "/v1/recommend", {"user": self._chance.randint(1, USERS), "k": 3})
        if answer is None:
            return
        event = answer.json()["event_id"]
        if event is None:
            self.unstored += 1
            return
        self.events.append(event)
        if self._feedback:
            value = float(self._chance.randint(1, 5))
            body = {"event_id": event, "type": "rating", "value": value}
            if await self._ask(client, "/v1/feedback", body) is not None:
                self.feedback.append((event, value))
                await self._ask(client, "/v1/feedback", body)

    async def _ask(self, client: Client, path: str, body: object) -> Answer | None:
        """Return a success; note anything else."""
        begun = perf_counter()
        try:
            answer = await client.ask("POST", path, body)
        except TimeoutError:
            self.failures[path, 0, "no answer"] += 1
            return None
        finally:
            self.slowest = max(self.slowest, perf_counter() - begun)
        if answer is None:
            self.cut += 1
            await asyncio.sleep(0.02)
            return None
        if answer.status == 200:
            return answer
        self.failures[path, answer.status, answer.code] += 1
        await asyncio.sleep(0.02)
        return None


def check_stored(result: PartResult, load: Load, url: str, what: str) -> None:
    """Count acknowledged rows that the database lacks some seconds later, and rows that it has twice."""
    limit = perf_counter() + REPLAY_SECONDS
    while True:
        events, rewards, counts = stored_rows(url)
        if set(load.events) <= events or perf_counter() > limit:
            break
        time.sleep(0.2)
    missing = set(load.events) - events
    result.count("lost", f"{what}: {len(missing)} of {len(load.events)} events are missing", len(missing))
    ungiven = set(load.feedback) - rewards
    result.count("lost", f"{what}: {len(ungiven)} of {len(load.feedback)} ratings are missing", len(ungiven))
    doubled = counts["rewards"] - len({event for event, _ in rewards}) + counts["events"] - len(events)
    result.count("lost", f"{what}: {doubled} rows are stored twice", doubled)


def count_failures(
    result: PartResult, load: Load, allowed: set[tuple[str, int, str | None]] = frozenset(), what: str = "load"
) -> None:  # fmt: skip
    """Count answers that are no success and not allowed in this situation."""
    for failure, number in load.failures.items():
        if failure not in allowed:
            kind = "wrong_5xx" if failure[1] >= 500 else "other"
            result.count(kind, f"{what}: {number} times {failure}", number)
