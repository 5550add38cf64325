"""An HTTP client on raw sockets, which sends any bytes and shows exactly what comes back."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from waiting import PATIENCE

T = TypeVar("T")
Address = tuple[str, int]
HEAD_BYTES = 1 << 20
"""Longest head that the client reads."""


class Answer(NamedTuple):
    """An HTTP response."""

    status: int
    headers: dict[str, str]
    """Names in lower case; the last value of each name."""
    body: bytes

    def json(self) -> Any:
        """Return the body as JSON."""
        return json.loads(self.body)

    @property
    def code(self) -> str | None:
        """The code of an error in the documented shape; None for any other body."""
        with suppress(ValueError, TypeError, KeyError):
            page = self.json()
            if set(page) == {"error"} and set(page["error"]) == {"code", "message"}:
                return str(page["error"]["code"])
        return None

    @property
    def line(self) -> str:
        """Status and the first bytes of the body."""
        return f"{self.status} {self.body[:120]!r}"


def address_of(url: str) -> Address:
    """Return host and port of a URL."""
    parts = urlsplit(url)
    return parts.hostname or "127.0.0.1", parts.port or 80


def request_bytes(method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """Return a request; a body that is not bytes becomes JSON, whose NaN and lone surrogates stay."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost"]
    content = b""
    if body is not None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        lines += ["content-type: application/json", f"content-length: {len(content)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + content


def bearing(key: str) -> dict[str, str]:
    """Return the headers of a caller with a key."""
    return {"authorization": f"Bearer {key}"}


async def read_answer(reader: asyncio.StreamReader, to_head: bool = False) -> Answer | None:
    """Return the next response, or None at the end of the connection; a response to HEAD has no body."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, OSError):
        return None
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split()
    if len(words) < 2 or not words[0].startswith("HTTP/") or not words[1].isdigit():
        return None
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    status = int(words[1])
    try:
        body = b"" if to_head or status < 200 or status in (204, 304) else await _read_body(reader, headers)
    except (asyncio.IncompleteReadError, OSError, ValueError):
        return None
    return Answer(status, headers, body)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") == "chunked":
        pieces = []
        while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
            pieces.append((await reader.readexactly(size + 2))[:-2])
        await reader.readuntil(b"\r\n")
        return b"".join(pieces)
    if "content-length" in headers:
        return await reader.readexactly(int(headers["content-length"]))
    return await reader.read()


class Client:
    """A client with one connection, which it opens again after the server has closed it."""

    def __init__(
        self,
        address: Address,
        headers: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        source: str | None = None,
    ):
        self._address, self._headers, self._timeout = address, dict(headers or {}), timeout
        self._source = None if source is None else (source, 0)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> "Client":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    async def ask(
        self, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Answer | None:
        """Return the answer; None if the server closes the connection without one.

        Raises OSError if there is no connection, TimeoutError if the server neither answers nor closes in time.
        """
        data = request_bytes(method, target, body, self._headers | dict(headers or {}))
        async with asyncio.timeout(self._timeout):
            for again in (self._streams is not None, False):
                if self._streams is None:
                    self._streams = await asyncio.open_connection(
                        *self._address, limit=HEAD_BYTES, local_addr=self._source
                    )
                reader, writer = self._streams
                try:
                    writer.write(data)
                    await writer.drain()
                    answer = await read_answer(reader, method == "HEAD")
                except OSError:
                    answer = None
                except BaseException:
                    self.close()
                    raise
                if answer is None or answer.headers.get("connection") == "close":
                    self.close()
                if answer is not None or not again:
                    return answer
        return None

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def ask(
    address: Address, method: str, target: str, body: Any = None, headers: Mapping[str, str] | None = None,
    timeout: float = 30.0,
) -> Answer | None:  # fmt: skip
    """Ask once over a new connection; see Client.ask."""
    async with Client(address, headers, timeout) as client:
        return await client.ask(method, target, body)


async def exchange(
    address: Address, data: bytes, seconds: float, most: int = 1000, more: float | None = None
) -> tuple[list[Answer], bool]:
    """Send bytes; return at most `most` answers, and whether the server closed the connection in time.

    With `more`, each answer has so many seconds for the next one.
    """
    answers: list[Answer] = []
    try:
        async with asyncio.timeout(seconds) as limit:
            reader, writer = await asyncio.open_connection(*address, limit=HEAD_BYTES)
            try:
                writer.write(data)
                while len(answers) < most:
                    answer = await read_answer(reader, data.startswith(b"HEAD"))
                    if answer is None:
                        return answers, True
                    answers.append(answer)
                    if more is not None:
                        limit.reschedule(asyncio.get_running_loop().time() + more)
                return answers, False
            finally:
                writer.transport.abort()
    except TimeoutError:
        return answers, False
    except OSError:
        return answers, True


async def repeat_late(send: Callable[[], Awaitable[T]], answers_of: Callable[[T], Iterable[Answer]]) -> T:
    """Send again while the server answers that a request takes too long; return the last result.

    A busy machine makes any request late now and then. A request that never ends is late until the patience ends.
    """
    limit = time.monotonic() + PATIENCE
    while True:
        result = await send()
        late = any(answer.status == 503 and answer.code == "timeout" for answer in answers_of(result))
        if not late or time.monotonic() > limit:
            return result
        await asyncio.sleep(0.5)


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[object]], at_once: int = 32) -> None:
    """Call `work` with each item, a number of them at once."""
    waiting = iter(items)

    async def worker() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(worker() for _ in range(at_once)))
