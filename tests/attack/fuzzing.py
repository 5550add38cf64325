"""Requests that nobody meant: valid ones with changed bytes, and JSON with values that break parsers and databases."""

import asyncio
import copy
import json
import random
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

from processes import ServerProcess

from attack.client import Answer, Client, address_of, exchange, for_each, repeat_late, request_bytes
from attack.session import NO_RATE, Session, operator

BYTES, BODIES = 2_500, 3_750
"""Mutated requests, and JSON bodies for each database: 10,000 in all."""
HASTY = NO_RATE.replace("[limits]", "[limits]\nseconds = 1.0") + "\n[strategies]\nenabled = true\n"
"""All routes, those of strategies included; a request whose rest never comes is given up after a second."""
LEFT_ALONE = re.compile(r"/v1/admin/(jobs|keys)/|/v1/admin/(versions/import|items)")
"""Operations on which fuzzing would start a training, or revoke the key that it uses."""
NOT_JSON = re.compile(rb"\b(NaN|-?Infinity)\b")
HOSTILE_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, -0.0, 1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, 0.1, 1e-320,
    1e308,
    float("nan"), float("inf"), float("-inf"), "", " ", "0", "1", "true", "null", "NaN", "\x00", "a\x00b", "\ud800",
    "\udfff\ud800",
    "\U0001f600", "\u202e", "\ufeff", "a" * 201, "a" * 100_000, "../../etc/passwd", "'; DROP TABLE events; --",
    "<script>",
    "%00", "\x1b[2J", "{{7*7}}", "${jndi:ldap://x}", [], [[]], [None], {}, {"": {}}, {"__proto__": 1}, [1] * 3_000,
    ["x"] * 101,
    {"$gt": ""}, "9" * 5_000, "1e999", 1.0, 4.999999999999999999,
)  # fmt: skip
RAW_BODIES = (
    b"", b" ", b"{", b"[", b'"', b"{}", b"[]", b"null", b"0", b"-", b"NaN", b"1e999", b'{"user":1,"user":2}',
    b'{"user":1}x', b"\xff\xfe{}",
    b"\xef\xbb\xbf{}", b'{"user":"\xff"}', b'{"user":"\\ud800"}', b'{"user":"\\u0000"}', b'{"user":1e400}',
    b'{"user":-0}',
    b'{"user":0123}', b'{"user":1,}', b"{'user':1}", b'{"user":' + b"[" * 10_000, b"[" * 100_000, b'{"a":' * 20_000,
    b"[" * 500 + b"]" * 500,
    b'{"user":' + b"9" * 100_000 + b"}", b'{"user":"' + b"a" * 1_000_000 + b'"}', b"\x00" * 1_000,
    b"<?xml version='1.0'?><a/>", b"user=1",
    b'{"user":1}' + b" " * 900_000, b'{"user":\t\n\r 1}', "{\u2028}".encode(), b'{"user":1}\x00',
)  # fmt: skip
_PIECES = (
    b"\x00", b"\r", b"\n", b"\r\n", b"\r\n\r\n", b"\xff", b"\x80", b" ", b"\t", b":", b"%00", b"%", b"0", b"-1",
    b"99999999999999999999", b"{", b"}",
    b'"', b"\\", b"\\u0000", b"\\ud800", b"Transfer-Encoding: chunked\r\n", b"Content-Length: 3\r\n", b"HTTP/1.1",
    b"/../",
)  # fmt: skip


def attack_by_bytes(session: Session) -> None:
    """Send valid requests with changed bytes."""
    server = session.start(settings=HASTY)
    asyncio.run(_send_bytes(session, server, 500 if session.quick else BYTES))
    session.check_alive(server)


def attack_by_json(session: Session) -> None:
    """Send hostile JSON and queries to all routes, as an operator, on each database."""
    kinds = ["sqlite", "postgresql"] if session.has_postgres() else ["sqlite"]
    for kind in kinds:
        server = session.start(state=kind, settings=HASTY, **session.new_database(kind, kind))
        asyncio.run(_send_json(session, server, 600 if session.quick else BODIES))
        session.check_alive(server)


def templates(server: ServerProcess) -> list[tuple[str, str, Any]]:
    """Return (method, path, example body or None) of each operation; ids in paths are 1."""
    page = server.get("/openapi.json")
    schemas = page["components"]["schemas"]
    found = []
    for path, operations in page["paths"].items():
        for method, operation in operations.items():
            if LEFT_ALONE.search(path):
                continue
            content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            name = content.get("schema", {}).get("$ref", "").rpartition("/")[2]
            example = next(iter(schemas.get(name, {}).get("examples", [])), {} if content else None)
            found.append((method.upper(), re.sub(r"{[^}]*}", "1", path), example))
    return found


async def _send_bytes(session: Session, server: ServerProcess, number: int) -> None:
    chance, address = random.Random(session.seed), address_of(server.url)
    valid = [request_bytes(method, path, body) for method, path, body in templates(server)]
    valid += [request_bytes(method, path, body, operator()) for method, path, body in templates(server)]

    async def send(data: bytes) -> None:
        answers, _ = await repeat_late(lambda: exchange(address, data, 5, most=1), lambda result: result[0])
        _judge(session, answers[0] if answers else None, data)

    await for_each([_mutated(chance, valid) for _ in range(number)], send, 64)


def _mutated(chance: random.Random, valid: list[bytes]) -> bytes:
    """Return one of the requests with one to eight changes."""
    data = bytearray(chance.choice(valid))
    for _ in range(chance.choice((1, 1, 2, 4, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 8, 40)))
        kind = chance.randrange(6)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << chance.randrange(8)
        elif kind == 1:
            data[at:at] = chance.choice(_PIECES)
        elif kind == 2:
            del data[at:end]
        elif kind == 3:
            data[at:at] = data[at:end] * chance.choice((1, 2, 100))
        elif kind == 4:
            data[at:end] = chance.randbytes(end - at)
        else:
            other = chance.choice(valid)
            data[at:] = other[chance.randrange(len(other)) :]
    return bytes(data)


async def _send_json(session: Session, server: ServerProcess, number: int) -> None:
    chance = random.Random(session.seed + 1)
    routes = templates(server)
    requests = [*_raw(routes), *_queries(routes), *_named(routes)]
    while len(requests) < number:
        method, path, body = chance.choice([route for route in routes if route[2] is not None])
        requests.append((method, path, _changed(chance, body)))
    chance.shuffle(requests)
    clients = [Client(address_of(server.url), operator()) for _ in range(16)]

    async def send(request: tuple[str, str, Any]) -> None:
        client = clients.pop()
        try:
            answer = await repeat_late(lambda: client.ask(*request), lambda result: [result] if result else [])
            _judge(session, answer, request)
        except TimeoutError:
            session.result.count("other", f"no answer: {str(request)[:200]}")
        finally:
            clients.append(client)

    await for_each(requests[:number], send, 16)
    for client in clients:
        client.close()


def _raw(routes: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    for method, path, body in routes:
        if body is not None:
            yield from ((method, path, raw) for raw in RAW_BODIES)


def _queries(routes: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield hostile values of query parameters; the names are those that any of our routes has."""
    texts = [quote(value.encode("utf-8", "surrogatepass")) for value in HOSTILE_VALUES if isinstance(value, str)]
    values = [*(text[:5_000] for text in texts), "-1", "0", str(2**63), str(2**64), "1e9", "nan", "%ff", "1,2", "[]"]
    for method, path, _ in routes:
        if method == "GET":
            for value in values[:: 1 if path.startswith("/v1/admin") else 8]:
                names = ("limit", "before", "name", "state", "days", "version", "job", "since", "cursor")
                yield method, f"{path}?" + "&".join(f"{name}={value}" for name in names), None
            for name in ("name", "limit", "before", "days"):
                yield method, f"{path}?{name}=%00", None


def _named(routes: list[tuple[str, str, Any]]) -> Iterator[tuple[str, str, Any]]:
    """Yield hostile ids in paths."""
    for method, path, body in routes:
        if "/1" in path:
            for value in (
                "0",
                "-1",
                "%00",
                "%ff",
                str(2**63),
                str(2**64),
                "a",
                "%2e%2e%2f",
                "1%00",
                "%ED%A0%80",
                "9" * 3_000,
            ):
                yield method, path.replace("/1", f"/{value}"), body


def _changed(chance: random.Random, body: Any) -> Any:
    """Return a copy of a JSON value with one or two hostile changes."""
    changed = copy.deepcopy(body)
    for _ in range(chance.choice((1, 1, 2))):
        places = list(_places(changed))
        if not places:
            return chance.choice(HOSTILE_VALUES)
        holder, key = chance.choice(places)
        kind = chance.randrange(8)
        if kind == 0 and isinstance(holder, dict):
            holder[str(chance.choice(("", "x", "user", "\x00", "__class__", "k", "ratings", "context")))] = holder.pop(
                key
            )
        elif kind == 1 and isinstance(holder, dict):
            del holder[key]
        elif kind == 2:
            nested: Any = holder[key]
            for _ in range(chance.choice((2, 50, 400))):
                nested = [nested] if chance.random() < 0.5 else {"a": nested}
            holder[key] = nested
        elif kind == 3 and isinstance(holder[key], list):
            holder[key] = holder[key] * chance.choice((2, 200))
        else:
            holder[key] = copy.deepcopy(chance.choice(HOSTILE_VALUES))
    return changed


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of each value inside."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def _judge(session: Session, answer: Answer | None, request: Any) -> None:
    """Count an answer that is a failure, no JSON, or an error in another shape."""
    result = session.result
    result.tries += 1
    if answer is None:
        return
    sent = request if isinstance(request, bytes) else str(request)
    if answer.status >= 500 and answer.status != 501:
        result.count("wrong_5xx", f"{answer.line} to {sent[:300]!r}")
    if answer.body and answer.status >= 400:
        result.require(answer.code, f"an error of another shape: {answer.line} to {sent[:300]!r}")
    if answer.headers.get("content-type") == "application/json" and answer.body:
        try:
            json.loads(answer.body, parse_constant=_refuse_constant)
        except ValueError:
            result.count("other", f"no JSON: {answer.line} to {sent[:300]!r}")
