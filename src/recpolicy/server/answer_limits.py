"""Limits on large answers: their rows, their cost, how many are computed at once, and how many bytes wait to be sent.

A small request can ask for a large answer: 100 users times the whole catalog are megabytes of JSON. Handlers therefore
say the number of rows first (`ActiveRequest.admit`) and compute in a thread (`ActiveRequest.compute`) that stops when
the request is over. The middleware sends large answers in pieces and waits for the client after each of them.
"""

import asyncio
import math
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import TypeVar

from starlette.responses import JSONResponse

from recpolicy.core.errors import DataError
from recpolicy.server.json_output import error_response
from recpolicy.server.rate_limit import ROWS_PER_TOKEN, TokenBuckets
from recpolicy.server.settings import LimitsConfig

LARGE_ROWS = 1_000
"""An answer with more rows is computed only when its turn comes."""
PIECE_BYTES = 1 << 16
"""Bytes of an answer that are sent at once."""
_WAITING = 8
"""Large answers that are computed or wait, per one that may be computed at once; a quarter of them for one client."""

T = TypeVar("T")
Work = Callable[[threading.Event], T]
"""A computation for a thread; it looks at the event from time to time, and ends early once it is set."""


class RejectedError(Exception):
    """A request that gets this response in place of its answer."""

    def __init__(self, response: JSONResponse):
        super().__init__()
        self.response = response


def overloaded(message: str = "the server handles too many requests at the moment; try again") -> JSONResponse:
    """Return the refusal of a request for which there is no room now."""
    return error_response(429, "overloaded", message, {"retry-after": "1"})


def rate_limited(limits: LimitsConfig, wait: float) -> JSONResponse:
    """Return the refusal of a caller that is too fast, with the seconds to wait."""
    message = f"more than {limits.rate:g} requests per second; a batch or a large answer counts as several"
    return error_response(429, "rate_limited", message, {"retry-after": str(math.ceil(wait))})


class AnswerLimits:
    """The large answers of one process; for one event loop."""

    def __init__(self, limits: LimitsConfig, buckets: TokenBuckets):
        self._limits, self._buckets = limits, buckets
        self._turns = asyncio.Semaphore(limits.large_answers)
        self._computing: Counter[str] = Counter()  # and waiting, by client
        self._unsent: Counter[str] = Counter()  # bytes by client

    def check(self, rows: int) -> None:
        """Raise DataError for an answer with too many rows."""
        if rows > self._limits.answer_rows:
            raise DataError(
                f"the answer would have {rows} rows; expected at most {self._limits.answer_rows}; ask for fewer users"
                " or items, in several requests (setting [limits] answer_rows)"
            )

    def charge(self, client: str, rows: int) -> None:
        """Take the tokens that a request of some rows costs beyond the first one; raises RejectedError without them."""
        tokens = math.ceil(rows / ROWS_PER_TOKEN) - 1
        wait = self._buckets.take(client, tokens) if tokens > 0 else 0.0
        if wait:
            raise RejectedError(rate_limited(self._limits, wait))

    @asynccontextmanager
    async def turn(self, client: str) -> AsyncIterator[None]:
        """Wait for the turn of a large answer; raises RejectedError if too many of this client or of all wait."""
        most = _WAITING * self._limits.large_answers
        if self._computing.total() >= most or self._computing[client] >= most // 4:
            raise RejectedError(overloaded("the server computes too many large answers at the moment; try again"))
        with _counted(self._computing, client, 1):
            async with self._turns:
                yield

    def has_room(self, client: str, size: int) -> bool:
        """Return True if an answer of this size may wait for its client; one client gets a quarter of the room."""
        room = self._limits.unsent_bytes
        return self._unsent.total() + size <= room and self._unsent[client] + size <= room // 4

    def unsent(self, client: str, size: int) -> AbstractContextManager[None]:
        """Count the bytes of an answer that is being sent: `with limits.unsent(client, size): ...`."""
        return _counted(self._unsent, client, size)


@contextmanager
def _counted(counter: Counter[str], name: str, amount: int) -> Iterator[None]:
    """Add an amount to a counter until the end of the context; names without an amount are dropped."""
    counter[name] += amount
    try:
        yield
    finally:
        counter[name] -= amount
        if not counter[name]:
            del counter[name]


async def run_in_thread(work: Work[T]) -> T:
    """Run a computation in a thread; if the caller is cancelled, tell the thread to stop."""
    stop = threading.Event()
    try:
        return await asyncio.to_thread(work, stop)
    finally:
        stop.set()
