"""Clients that use up sockets, memory, time and pipes, while others want to be served."""

import asyncio
import os
import resource
import time
from contextlib import suppress

from unlimited import UNLIMITED_TOML
from waiting import PATIENCE

from attack.client import Address, Client, address_of, read_answer, request_bytes
from attack.load import Load, count_failures
from attack.session import QUIET, Session, operator

BODY = b'{"user":1,"k":1}'
SHED = {
    ("/v1/recommend", 429, "overloaded"),
    ("/v1/feedback", 429, "overloaded"),
    ("/v1/recommend", 429, "rate_limited"),
    ("/v1/feedback", 429, "rate_limited"),
}
SERVED_SECONDS = 8.0
"""Longest time until an answer for others; the server's own limit is 10 s."""
OTHER = "127.0.0.2"
"""The address of others; the attacker's is 127.0.0.1."""


def attack_descriptors(session: Session) -> None:
    """Open more connections than the server may have file descriptors, for some seconds."""
    _raise_own_limit()
    for limit, workers in ((256, 1), (1024, 1), (1024, 2)):
        if session.quick and (limit, workers) != (256, 1):
            continue
        state, number = f"{limit}-{workers}", limit * workers + 100
        prefix = ("prlimit", f"--nofile={limit}:{limit}")
        server = session.start("--workers", workers, state=state, prefix=prefix)
        asyncio.run(_hold_idle(address_of(server.url), number, 3.0))
        session.result.tries += number
        session.check_alive(server, 20)


async def _hold_idle(address: Address, number: int, seconds: float) -> None:
    """Hold a number of connections that send nothing, while a client goes on asking."""
    writers = []
    load = Load(address, clients=2, timeout=15).start()
    for _ in range(number):
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(2):
                writers.append((await asyncio.open_connection(*address))[1])
    await asyncio.sleep(seconds)
    for writer in writers:
        writer.transport.abort()
    await load.stop()


def _raise_own_limit() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def attack_large_answers(session: Session) -> None:
    """Ask for the largest answers, 40 at once, from clients that do not read; others must still be served."""
    everything = {"users": list(range(1, 101))}
    instances = {"instances": [{"user": user, "items": list(range(101, 1783))} for user in range(1, 101)]}
    batch = {"requests": [{"user": user, "k": 100} for user in range(1, 101)]}
    server = session.start(settings=QUIET)  # with the default limits
    requests = [
        ("/v1/predict", everything), ("/v1/models/recpolicy:predict", instances), ("/v1/recommend/batch", batch),
    ]  # fmt: skip
    for path, body in requests[: 1 if session.quick else 3]:
        asyncio.run(_do_not_read(session, address_of(server.url), path, body))
    session.check_alive(server, 30)


async def _do_not_read(session: Session, address: Address, path: str, body: object) -> None:
    data = request_bytes("POST", path, body)
    writers = []
    for _ in range(40):
        reader, writer = await asyncio.open_connection(*address, limit=1)
        reader._transport.pause_reading()
        writer.write(data)
        writers.append(writer)
    session.result.tries += 40
    load = Load(address, clients=1, timeout=30).start()
    await asyncio.sleep(4.0 if session.quick else 12.0)
    await load.stop()
    for writer in writers:
        writer.transport.abort()
    session.result.require(load.events, f"{path}: nobody else was served")
    session.result.require(load.slowest < SERVED_SECONDS, f"{path}: others waited {load.slowest:.1f} s")
    count_failures(session.result, load, SHED, path)


def attack_slowly(session: Session) -> None:
    """Send 2,000 heads that never end, then bodies that never come from one address; others must be served."""
    _raise_own_limit()
    server = session.start(settings=QUIET)  # with the default limits
    heads, slow = (400, 500) if session.quick else (2_000, 1_550)
    asyncio.run(_slow(session, address_of(server.url), heads, slow))
    session.check_alive(server)


async def _slow(session: Session, address: Address, heads: int, bodies: int) -> None:
    result = session.result
    data = request_bytes("POST", "/v1/recommend", BODY)
    pairs = await _open_all(address, [data[: -len(BODY) - 2]] * heads)
    await _others_are_served(session, address, "slow heads", source=OTHER)
    begun = time.monotonic()
    answers = await asyncio.gather(
        *(asyncio.wait_for(read_answer(reader), 20) for reader, _ in pairs), return_exceptions=True
    )
    wrong = [answer for answer in answers if answer is not None and getattr(answer, "status", 0) not in (408, 429)]
    result.require(not wrong, f"{len(wrong)} of {heads} slow heads got {wrong[:1]}")
    result.require(time.monotonic() - begun < 15, "slow heads were kept longer than 15 s")
    _close(pairs)
    pairs = []
    for start in range(0, bodies, 200):  # within the rate of one address
        pairs += await _open_all(address, [data[: -len(BODY) + 1]] * min(200, bodies - start))
        await asyncio.sleep(0.7)
        if start == 400:
            await _others_are_served(session, address, "600 slow bodies", as_operator=True)
    await _others_are_served(session, address, "slow bodies", as_operator=True, source=OTHER)
    await _others_are_served(session, address, "slow bodies", source=OTHER)
    _close(pairs)
    result.tries += heads + bodies


async def _open_all(address: Address, beginnings: list[bytes]) -> list:
    pairs = []
    for data in beginnings:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection(*address)
            writer.write(data)
            pairs.append((reader, writer))
    return pairs


def _close(pairs: list) -> None:
    for _, writer in pairs:
        writer.transport.abort()


async def _others_are_served(
    session: Session, address: Address, what: str, as_operator: bool = False, source: str | None = None
) -> None:
    """Ask as an operator or as nobody, from the attacker's address or another one."""
    failed, slowest = [], 0.0
    headers = operator() if as_operator else {}
    for _ in range(40):
        begun = time.monotonic()
        try:
            async with Client(address, headers, timeout=10, source=source) as client:
                path, body = ("/v1/admin/versions", None) if as_operator else ("/v1/recommend", {"user": 2})
                answer = await client.ask("GET" if as_operator else "POST", path, body)
            if answer is None or answer.status != 200:
                failed.append(answer and answer.line)
        except (OSError, TimeoutError) as error:
            failed.append(type(error).__name__)
        slowest = max(slowest, time.monotonic() - begun)
    session.result.tries += 40
    session.result.require(not failed, f"{what}: {len(failed)} of 40 requests of others failed: {failed[:1]}")
    session.result.require(slowest < SERVED_SECONDS, f"{what}: others waited {slowest:.1f} s")


def attack_log_pipe(session: Session) -> None:
    """Give the server a pipe for its log that nobody reads."""
    reading, writing = os.pipe()
    try:
        server = session.start(stderr=writing)
        os.close(writing)
        asyncio.run(_fill_pipe(session, address_of(server.url)))
        session.check_alive(server)
    finally:
        os.close(reading)


async def _fill_pipe(session: Session, address: Address) -> None:
    number = 0
    async with Client(address, timeout=PATIENCE) as client:
        try:
            for number in range(1_500):
                await client.ask("POST", "/v1/recommend", {"user": number % 900 + 1, "k": 1})
                await client.ask("GET", f"/nothing/{number}")
        except TimeoutError:
            session.result.count(
                "other", f"the server stands still after {2 * number} requests, whose log nobody reads"
            )
    session.result.tries += 2 * number


def attack_addresses(session: Session) -> None:
    """Send many and long forwarded addresses, which must neither give a new rate nor take memory."""
    limits = UNLIMITED_TOML.replace("rate = 0", "rate = 5.0\nburst = 10")
    server = session.start(settings=limits + QUIET)
    asyncio.run(_forge(session, address_of(server.url)))


async def _forge(session: Session, address: Address) -> None:
    statuses = []
    async with Client(address) as client:
        for number in range(200):
            headers = {
                "x-forwarded-for": f"10.0.{number}.1",
                "forwarded": f"for=10.0.{number}.1",
                "x-real-ip": f"10.1.{number}.1",
            }
            answer = await client.ask("POST", "/v1/recommend", {"user": 1}, headers)
            statuses.append(answer and answer.status)
        for number in range(500):
            await client.ask("POST", "/v1/recommend", {"user": 1}, {"x-forwarded-for": f"{number}" + "x" * 50_000})
    session.result.tries += 700
    limited = statuses.count(429)
    session.result.require(limited > 100, f"forged addresses: {limited} of 200 requests were limited")
