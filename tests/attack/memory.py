"""Memory of one server process over many mixed requests."""

import asyncio
import random
import signal
from typing import Any

from processes import ServerProcess

from attack.client import Client, address_of, for_each
from attack.session import NO_RATE, Session, operator, rss_mib

REQUESTS = 100_000
READINGS = 20
MAX_MIB, MAX_GROWTH_MIB = 150.0, 2.0
USERS, ITEM_IDS = range(1, 944), range(101, 1500)
CLIENTS = 16
Request = tuple[str, str, Any]


def attack_memory(session: Session) -> None:
    """Send 100,000 mixed requests; memory may neither be large nor grow in their second half."""
    result = session.result
    session.start(settings=NO_RATE).stop(signal.SIGTERM)  # which makes the tables: only then Alembic is loaded, 8 MiB
    server = session.start(settings=NO_RATE)
    readings = asyncio.run(_send(session, server, 5_000 if session.quick else REQUESTS))
    growth = readings[-1] - readings[len(readings) // 2]
    result.figures |= {"rss_1e5_requests_mib": max(readings), "rss_growth_mib": growth, "readings_mib": readings}
    result.require(max(readings) <= MAX_MIB, f"{max(readings):.1f} MiB; expected at most {MAX_MIB:g}")
    result.require(growth <= MAX_GROWTH_MIB or session.quick, f"the second half took {growth:.1f} MiB; {readings}")
    session.check_alive(server)


async def _send(session: Session, server: ServerProcess, number: int) -> list[float]:
    """Return the resident memory before the requests and after each part of them."""
    chance, events = random.Random(session.seed), ["0" * 32]
    clients = [Client(address_of(server.url), operator()) for _ in range(CLIENTS)]
    readings = [rss_mib(server.process.pid)]

    async def send(request: Request) -> None:
        client = clients.pop()
        try:
            answer = await client.ask(*request)
        finally:
            clients.append(client)
        session.result.tries += 1
        if answer is None or answer.status >= 500:
            session.result.count("wrong_5xx", f"{request[:2]}: {answer and answer.line}")
        elif request[1] == "/v1/recommend" and answer.status == 200:
            events[len(events) % 1000 : 1000] = [answer.json()["event_id"] or events[0]]

    for _ in range(READINGS):
        await for_each([mixed_request(chance, events) for _ in range(number // READINGS)], send, CLIENTS)
        await asyncio.sleep(0.2)
        readings.append(round(rss_mib(server.process.pid), 1))
    for client in clients:
        client.close()
    return readings


def mixed_request(chance: random.Random, events: list[str]) -> Request:
    """Return a request: 45 % lists, 25 % feedback, 10 % estimates, 8 % batches and new users, 12 % errors and reads."""
    user, items = chance.choice(USERS), [chance.choice(ITEM_IDS) for _ in range(8)]
    kind = chance.random()
    if kind < 0.40:
        return "POST", "/v1/recommend", {"user": user, "k": chance.choice((1, 5, 10))}
    if kind < 0.45:
        return "POST", "/v1/recommend", {"user": user, "exclude": items, "years": [1980, 1999]}
    if kind < 0.65:
        return "POST", "/v1/feedback", {"event_id": chance.choice(events), "type": "rating", "value": 4.0}
    if kind < 0.70:
        feedback = [{"event_id": chance.choice(events), "type": "like"} for _ in range(20)]
        return "POST", "/v1/feedback/batch", {"items": feedback}
    if kind < 0.78:
        return "POST", "/v1/predict", {"users": [user], "items": items}
    if kind < 0.80:
        return "POST", "/v1/predict", {"users": [user]}
    if kind < 0.83:
        requests = [{"user": each, "k": 10} for each in chance.sample(USERS, 20)]
        return "POST", "/v1/recommend/batch", {"requests": requests}
    if kind < 0.85:
        return "POST", "/v1/models/recpolicy:predict", {"instances": [{"user": user}, {"user": user, "items": items}]}
    if kind < 0.88:
        ratings = [{"item": item, "rating": chance.randint(1, 5)} for item in dict.fromkeys(items)]
        return "POST", "/v1/recommend", {"user": f"new-{chance.randrange(10**9)}", "ratings": ratings}
    path = chance.choice(("/readyz", "/healthz", "/metrics", "/v1/admin/versions", f"/nothing/{chance.random()}"))
    return chance.choice(
        (
            ("GET", path, None), ("POST", "/v1/recommend", b"{"),
            ("POST", "/v1/recommend", {"user": f"unknown-{kind}"}),
            ("POST", "/v1/recommend", {"user": user, "k": -1}), ("POST", "/v1/predict", {"users": []}),
        )
    )  # fmt: skip
