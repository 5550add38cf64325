"""The thread that reads the ratings of the users of a request, and keeps their posteriors in a bounded cache.

It asks the store for the stamps of all users of the waiting requests at once, and reads the rows of those whose stamp
has changed. So the next request sees acknowledged feedback in every process, also a row that PostgreSQL committed late,
and an erased user is gone. A database that does not answer delays no request by more than READ_SECONDS: then the
last state that this process knows is used.
"""

import asyncio
import json
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import Pool

from recpolicy.core.lru import LRUCache
from recpolicy.core.queues import take_group
from recpolicy.inference.user_vectors import UserVectors
from recpolicy.server.db.failures import failure_reason
from recpolicy.server.db.user_ratings import Stamp, read_ratings, read_stamps
from recpolicy.server.users.state import UserState, fold

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
"""Longest time that a request waits for its users."""
_MAX_GROUP = 100
_USERS_AT_ONCE = 100

States = Mapping[tuple[object, str], UserState]
"""States by policy (UserVectors.token) and user key; users without a rating are left out."""


@dataclass(slots=True)
class _Request:
    """Users to read, and the future of their states; None if the store cannot be read."""

    policies: Sequence[UserVectors]
    keys: Sequence[str]
    done: "asyncio.Future[States | None]"


class UserReader:
    """The reader of one process.

    Args:
        engine: The database.
        is_down: Returns True while the database is known not to answer.
        cache_bytes: Bound of the cached states.
    """

    def __init__(self, engine: Engine, is_down: Callable[[], bool], cache_bytes: int):
        self._engine, self._is_down = engine, is_down
        self._cache: LRUCache[UserState] = LRUCache(cache_bytes)
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._connection: Connection | None = None
        self._pool: Pool | None = None
        self._database = 0
        """The number of times that the engine was disposed."""
        self._began: float | None = None
        self._failure = ""
        self._thread = threading.Thread(target=self._run, name="recpolicy-user-reader", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return True while the thread runs."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Stop the thread; a read that hangs is left behind."""
        self._queue.put(None)
        self._thread.join(READ_SECONDS)

    async def read(self, policies: Sequence[UserVectors], keys: Sequence[str]) -> tuple[States, bool]:
        """Return the states of users under policies, and whether the store was read for them."""
        began = self._began
        if not self._is_down() and (began is None or monotonic() - began < READ_SECONDS):
            loop = asyncio.get_running_loop()
            done: asyncio.Future[States | None] = loop.create_future()
            timer = loop.call_later(READ_SECONDS, _give_up, done)
            self._queue.put(_Request(policies, keys, done))
            states = await done
            timer.cancel()
            if states is not None:
                return states, True
        return self._cached(policies, keys), False

    def forget(self, key: str, policies: Sequence[UserVectors]) -> None:
        """Drop the states of a user."""
        for policy in policies:
            self._cache.remove((policy.token, key))

    def _cached(self, policies: Sequence[UserVectors], keys: Sequence[str]) -> States:
        """Return the last known states."""
        pairs = [(policy.token, key) for policy in policies for key in keys]
        return {pair: state for pair in pairs if (state := self._cache.get(pair)) is not None}

    def _run(self) -> None:
        last = False
        while not last:
            group, last = take_group(self._queue, _MAX_GROUP)
            if group:
                self._began = monotonic()
                try:
                    self._answer(group)
                finally:
                    self._began = None
        self._disconnect()

    def _answer(self, group: Sequence[_Request]) -> None:
        """Give each request of a group its states, or None after a failure of any kind."""
        waiting = sorted(group, key=lambda request: len(request.keys) * len(request.policies))  # the smallest first
        try:
            connection = self._connected()
            stamps = self._stamps(connection, waiting)
            while waiting:
                states = self._states(connection, waiting[0], stamps)
                _answer_request(waiting.pop(0), states)
                self._began = monotonic()
            self._failure = ""
        except Exception as error:
            self._disconnect()
            reason = failure_reason(error)
            if reason != self._failure:
                logger.error("the ratings of users could not be read: %s", reason)
            self._failure = reason
            for request in waiting:
                _answer_request(request, None)

    def _stamps(self, connection: Connection, group: Sequence[_Request]) -> dict[str, Stamp]:
        """Return the stamps of the users of a group; those without a rating have none."""
        stamps: dict[str, Stamp] = {}
        keys = list({key: None for request in group for key in request.keys})
        for start in range(0, len(keys), _USERS_AT_ONCE):
            stamps |= read_stamps(connection, keys[start : start + _USERS_AT_ONCE])
        return stamps

    def _states(self, connection: Connection, request: _Request, stamps: Mapping[str, Stamp]) -> States | None:
        """Return the states of a request's users, and keep them; None once the request no longer waits."""
        states: dict[tuple[object, str], UserState] = {}
        for key in request.keys:
            if key not in stamps:
                self.forget(key, request.policies)
                continue
            for policy in request.policies:
                if request.done.done():
                    return None
                states[policy.token, key] = self._latest(connection, policy, key, stamps[key])
        return states

    def _latest(self, connection: Connection, policy: UserVectors, key: str, stamp: Stamp) -> UserState:
        """Return the state of a user whose rows have this stamp, or a later one."""
        pair = policy.token, key
        known = self._cache.get(pair)
        if known is not None and known.stamp == stamp:
            return known
        user = json.loads(key)
        state = fold(policy, user, read_ratings(connection, key, 0 if known is None else known.last), known)
        if state.stamp != stamp and known is not None:  # rows are gone, or came late
            state = fold(policy, user, read_ratings(connection, key, 0))
        state = replace(state, database=self._database)
        self._cache.put(pair, state, state.size)
        return state

    def _connected(self) -> Connection:
        """Return the connection, a new one if the engine was disposed: then the file was replaced."""
        if self._pool is not self._engine.pool:
            self._disconnect()
            self._cache.clear()  # an older file may reach the same row numbers with other ratings
            self._database += self._pool is not None
        if self._connection is None:
            connection = self._engine.connect()
            if self._engine.dialect.name == "postgresql":  # SQLite needs no transaction to read
                connection = connection.execution_options(isolation_level="AUTOCOMMIT")
            self._connection, self._pool = connection, self._engine.pool
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
            connection.close()


def _answer_request(request: _Request, states: States | None) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits
        request.done.get_loop().call_soon_threadsafe(_set_result, request.done, states)


def _give_up(done: "asyncio.Future[States | None]") -> None:
    _set_result(done, None)


def _set_result(done: "asyncio.Future[States | None]", states: States | None) -> None:
    if not done.done():
        done.set_result(states)
