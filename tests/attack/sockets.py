"""Bytes that are almost HTTP: smuggling, chunking, headers, other protocols, pipelining, slow and broken bodies.

Each case gives the statuses that the first answer may have; CLOSED stands for a connection closed without an answer. No
case may get an answer to a request that the server should not have seen.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from attack.client import Address, address_of, exchange, for_each, repeat_late
from attack.session import NO_RATE, Session

CLOSED = 0
REFUSED = frozenset({400, 408, 411, 413, 414, 415, 417, 422, 431, 501, 505, CLOSED})
FINE = frozenset({200})
EITHER = REFUSED | FINE | {404, 405}
HASTY = NO_RATE.replace("[limits]", "[limits]\nseconds = 1.0")
SECONDS = 60.0
"""Time for the first answer, or for the end of the connection without one."""
BODY = b'{"user":1,"k":1}'
GET = b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nhost: localhost\r\n\r\n"
"""It has status 404; an answer to it behind the first one shows that the body of one request became another."""


@dataclass(frozen=True)
class Case:
    """Bytes to send and the statuses that are right."""

    name: str
    data: bytes
    allowed: frozenset[int] = REFUSED
    pieces: int = 1
    """The number of pieces in which the bytes are sent, 50 ms apart."""
    answers: int = 1
    """The number of answers that the bytes may get."""


def attack_sockets(session: Session) -> None:
    """Send each case over a new connection."""
    server = session.start(settings=HASTY)
    asyncio.run(_send_all(session, address_of(server.url)))
    session.check_alive(server)


def post(*lines: bytes, body: bytes = b"", path: bytes = b"/v1/recommend", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a POST request with a host, a content type and these lines."""
    first = (b"POST " + path + b" " + version, b"host: localhost", b"content-type: application/json")
    return b"\r\n".join((*first, *lines)) + b"\r\n\r\n" + body


def get(*lines: bytes, target: bytes = b"/healthz", method: bytes = b"GET", version: bytes = b"HTTP/1.1") -> bytes:
    """Return a GET request with these header lines only."""
    return b"\r\n".join((method + b" " + target + b" " + version, *lines)) + b"\r\n\r\n"


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n0\r\n\r\n" % (len(data), data)


def smuggling() -> Iterator[Case]:
    """Yield two contradicting lengths of one body: proxies and servers must not choose differently."""
    size, chunked = b"content-length: %d" % len(BODY), b"transfer-encoding: chunked"
    behind = _chunked(BODY) + SMUGGLED
    yield Case("CL then TE", post(size, chunked, body=behind))
    yield Case("TE then CL", post(chunked, size, body=behind))
    yield Case("two CL", post(size, b"content-length: 3", body=BODY + SMUGGLED))
    yield Case("two equal CL", post(size, size, body=BODY), EITHER)
    for value in (
        b"+16",
        b"-1",
        b"16x",
        b"0x10",
        b"1 6",
        b"16,16",
        b"16, 17",
        b"1e1",
        b"",
        b"99999999999999999999999",
        b"\x0016",
    ):
        yield Case(f"CL {value!r}", post(b"content-length: " + value, body=BODY))
    for line in (
        b"transfer-encoding: xchunked", b"transfer-encoding: identity", b"transfer-encoding: gzip, chunked",
        b"transfer-encoding: chunked, identity", b"transfer-encoding: chunked, chunked",
        b"transfer-encoding: \x0bchunked",
        b"transfer-encoding : chunked", b"transfer-encoding\x00: chunked", b"transfer-encoding: chunke\x00d",
    ):  # fmt: skip
        yield Case(repr(line), post(line, body=behind))
        yield Case(f"CL and {line!r}", post(size, line, body=behind))
    yield Case("two TE", post(chunked, b"transfer-encoding: identity", body=behind))
    yield Case("folded TE", post(size, b"x: a\r\n transfer-encoding: chunked", body=BODY), EITHER)
    yield Case("TE behind a bare LF", post(size, b"x: a\ntransfer-encoding: chunked", body=behind))
    yield Case("TE behind a bare CR", post(size, b"x: a\rtransfer-encoding: chunked", body=behind))
    yield Case("TE in HTTP/1.0", post(size, chunked, body=behind, version=b"HTTP/1.0"))
    yield Case("GET with a body", get(b"host: localhost", b"content-length: 5") + b"hello" + SMUGGLED, FINE, answers=2)
    yield Case("chunked", post(chunked, body=_chunked(BODY)), FINE)
    yield Case("CHUNKED", post(b"Transfer-Encoding: CHUNKED", body=_chunked(BODY)), FINE)


def chunking() -> Iterator[Case]:
    """Yield wrong and strange chunks."""
    te, size = b"transfer-encoding: chunked", b"%x" % len(BODY)
    for name, text in {
        "letters": b"zz", "minus": b"-10", "plus": b"+10", "0x": b"0x10", "space": b" 10", "empty": b"",
        "overflow": b"f" * 17,
        "huge": b"7fffffffffffffff", "16 bits more": b"10000000000000010",
    }.items():  # fmt: skip
        yield Case(f"chunk size {name}", post(te, body=text + b"\r\n" + BODY + b"\r\n0\r\n\r\n"))
    end = b"\r\n0\r\n\r\n"
    yield Case("no CRLF behind a chunk", post(te, body=size + b"\r\n" + BODY + b"0\r\n\r\n"))
    yield Case("bare LF behind the size", post(te, body=size + b"\n" + BODY + b"\n0\n\n"))
    yield Case("chunk extension", post(te, body=size + b";a=b\r\n" + BODY + end), EITHER)
    yield Case("long chunk extension", post(te, body=size + b";" + b"a" * 400_000 + b"\r\n" + BODY + end), EITHER)
    yield Case("bytes as chunks", post(te, body=b"".join(b"1\r\n%c\r\n" % byte for byte in BODY) + b"0\r\n\r\n"), FINE)
    trailers = size + b"\r\n" + BODY + b"\r\n0\r\ncontent-length: 3\r\nauthorization: Bearer x\r\n\r\n"
    yield Case("trailers", post(te, body=trailers), EITHER)
    yield Case("endless trailers", post(te, body=size + b"\r\n" + BODY + b"\r\n0\r\n" + b"x: y\r\n" * 60_000), EITHER)
    yield Case("two million empty-ish chunks", post(te, body=b"1\r\n \r\n" * 1_200_000 + b"0\r\n\r\n"))
    yield Case("unfinished", post(te, body=size + b"\r\n" + BODY))
    behind = _chunked(BODY) + b"0\r\n\r\n" + SMUGGLED
    yield Case("smuggled chunk", post(te, body=behind), frozenset({200, CLOSED}), answers=2)


def headers() -> Iterator[Case]:
    """Yield wrong hosts, names, values, lines, methods and targets."""
    host = b"host: localhost"
    yield Case("no host", get())
    yield Case("two hosts", get(host, b"host: other"))
    yield Case("two equal hosts", get(host, host))
    yield Case("no host in HTTP/1.0", get(version=b"HTTP/1.0"), EITHER)
    for line in (
        b"x\x00y: 1", b"x: \x00", b"x y: 1", b"x : 1", b": 1", b"no colon", b"x: a\rb", b"\xff: 1", b" x: 1",
        b"x\x7f: 1", b"x[]: 1",
    ):  # fmt: skip
        yield Case(f"header {line!r}", get(host, line), EITHER if line == b" x: 1" else REFUSED)
    yield Case("bytes above 127", get(host, b"x: \xe4\xff"), EITHER)
    yield Case("folded", get(host, b"x: a\r\n b"), EITHER)
    yield Case("bare LF", b"GET /healthz HTTP/1.1\nhost: localhost\n\n", EITHER)
    yield Case("long name", get(host, b"a" * 300_000 + b": 1"))
    yield Case("long value", get(host, b"x: " + b"a" * 300_000))
    yield Case("30,000 headers", get(host, *[b"x: y"] * 30_000))
    yield Case("empty lines first", b"\r\n\r\n" + GET, EITHER)
    yield Case("300,000 empty lines", b"\r\n" * 300_000 + GET)
    for value in (b"100-continue", b"nonsense"):
        yield Case(
            f"expect {value!r}",
            post(b"expect: " + value, b"content-length: 16", body=BODY),
            FINE | REFUSED | {100},
            answers=2,
        )
    for version in (
        b"HTTP/0.9",
        b"HTTP/1.2",
        b"HTTP/2.0",
        b"HTTP/3.0",
        b"HTTP/9.9",
        b"http/1.1",
        b"HTTP/1.10",
        b"HTTP/",
        b"XTTP/1.1",
    ):
        yield Case(f"version {version!r}", get(host, version=version), EITHER)
    yield Case("no version", b"GET /healthz\r\n\r\n", EITHER)
    for method in (b"get", b"G@T", b"GET\x00", b"", b"A" * 300_000, b"PRI", b"DESCRIBE", b"M-SEARCH"):
        yield Case(f"method {method[:9]!r}", get(host, method=method), REFUSED | {404, 405})
    for target in (
        b"healthz", b"*", b"", b"/health\x00z", b"/healthz /x", b"/\xff\xfe", b"/%00", b"/%", b"/%zz", b"//", b"/..",
        b"/" + b"a" * 300_000,
        b"http://other/healthz", b"https://[::1", b"//other/healthz", b"/healthz?" + b"a=b&" * 20_000, b"/healthz#x",
        b"?x", b"\\healthz",
    ):  # fmt: skip
        yield Case(f"target {target[:20]!r}", get(host, target=target), EITHER)
    yield Case("CONNECT", get(host, target=b"other:443", method=b"CONNECT"), EITHER | {401})


def protocols() -> Iterator[Case]:
    """Yield the first bytes of other protocols."""
    hello = bytes.fromhex("16030100c5010000c10303") + bytes(range(186))
    for name, data in {
        "TLS": hello, "TLS record": b"\x17\x03\x03\x40\x00" + b"x" * 500,
        "SSL 2": bytes.fromhex("802e010002001500000010") + b"\x01" * 37,
        "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x12\x04\x00\x00\x00\x00\x00",
        "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
        "SMTP": b"EHLO server\r\n", "Redis": b"*1\r\n$4\r\nPING\r\n",
        "PostgreSQL": b"\x00\x00\x00\x08\x04\xd2\x16\x2f", "RTSP": b"DESCRIBE rtsp://x RTSP/1.0\r\n\r\n",
        "PROXY 1": b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\n" + GET,
        "PROXY 2": b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + b"\x01" * 12 + GET,
        "zeros": bytes(4_000), "random": bytes((i * 197 + 31) % 256 for i in range(4_000)),
        "FTP": b"USER anonymous\r\n",
    }.items():  # fmt: skip
        yield Case(name, data)
    websocket = (
        b"host: localhost", b"connection: upgrade", b"upgrade: websocket", b"sec-websocket-version: 13",
        b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==",
    )  # fmt: skip
    yield Case("websocket", get(*websocket, target=b"/v1/recommend"), EITHER | {403})
    yield Case("websocket to admin", get(*websocket, target=b"/v1/admin/keys"), REFUSED | {401, 403, 404})
    h2c = (
        b"host: localhost",
        b"connection: upgrade, http2-settings",
        b"upgrade: h2c",
        b"http2-settings: AAMAAABkAAQAAP__",
    )
    yield Case("h2c", get(*h2c), EITHER)


def bodies() -> Iterator[Case]:
    """Yield pipelined, slow, short, long and packed bodies."""
    whole = post(b"content-length: %d" % len(BODY), body=BODY)
    yield Case("three pipelined", GET * 3, FINE, answers=3)
    yield Case("200 pipelined", GET * 200, FINE, answers=200)
    yield Case("pipelined posts", whole * 20, FINE, answers=20)
    yield Case("pipelined, then no HTTP", GET + b"\x16\x03\x01\r\n\r\n", frozenset({200, 400, CLOSED}), answers=2)
    yield Case("a longer body", post(b"content-length: 3", body=BODY), EITHER, answers=2)
    yield Case("a shorter body", post(b"content-length: 100", body=BODY), frozenset({408, CLOSED}))
    yield Case("no body", post(b"content-length: 16"), frozenset({408, CLOSED}))
    yield Case("no length", post(), REFUSED)
    yield Case("slow head", GET, frozenset({408, CLOSED}), pieces=len(GET))
    yield Case(
        "slow body",
        post(b"content-length: 90", body=b'{"user":' + b" " * 80 + b"1}"),
        frozenset({408, CLOSED}),
        pieces=90,
    )
    yield Case(
        "one byte more than 1 MiB", post(b"content-length: 1048577", body=b" " * 1_048_577), frozenset({413, CLOSED})
    )
    yield Case(
        "a length of 10 GB", post(b"content-length: 10000000000", body=b" " * 2_000_000), frozenset({413, CLOSED})
    )
    yield Case(
        "2 MiB in chunks",
        post(b"transfer-encoding: chunked", body=_chunked(b" " * (2 << 20))),
        frozenset({413, CLOSED}),
    )
    yield Case("gzip", post(b"content-encoding: gzip", b"content-length: 20", body=b"\x1f\x8b" + b"\x00" * 18))
    yield Case("HEAD", get(b"host: localhost", method=b"HEAD"), EITHER)
    yield Case("OPTIONS *", get(b"host: localhost", method=b"OPTIONS", target=b"*"), EITHER)


def cases() -> list[Case]:
    """Return all cases."""
    return [*smuggling(), *chunking(), *headers(), *protocols(), *bodies()]


async def _send_all(session: Session, address: Address) -> None:
    async def send(case: Case) -> None:
        session.result.tries += 1
        if case.pieces == 1:
            answers, closed = await repeat_late(
                lambda: exchange(address, case.data, SECONDS, most=case.answers + 5, more=3), lambda result: result[0]
            )
        else:
            answers, closed = await _in_pieces(address, case)
        statuses = [answer.status for answer in answers]
        first = statuses[0] if statuses else CLOSED
        shown = f"{case.name}: {statuses[:5]}"
        if any(status >= 500 and status not in case.allowed for status in statuses):
            session.result.count("wrong_5xx", shown)
        elif first not in case.allowed:
            session.result.count("other", f"{shown}; expected {sorted(case.allowed)}")
        elif len(answers) > case.answers or (404 in statuses[1:] and case.answers == 1):
            session.result.count("other", f"{shown}: more answers than requests")
        elif not answers and not closed:
            session.result.count("other", f"{case.name}: neither an answer nor closed within {SECONDS:g} s")

    await for_each(cases(), send, 16)


async def _in_pieces(address: Address, case: Case) -> tuple[list, bool]:
    from attack.client import read_answer

    reader, writer = await asyncio.open_connection(*address)
    reading = asyncio.ensure_future(read_answer(reader))
    size = -(-len(case.data) // case.pieces)
    try:
        for start in range(0, len(case.data), size):
            if reading.done():
                break
            writer.write(case.data[start : start + size])
            await asyncio.sleep(0.05)
        answer = await asyncio.wait_for(reading, SECONDS)
        return ([] if answer is None else [answer]), answer is None
    finally:
        reading.cancel()
        writer.transport.abort()
