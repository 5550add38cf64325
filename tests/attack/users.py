"""Users who learn under load: kills, erasure in the middle of requests, and feedback that must move nothing."""

import asyncio
import os
import random
import re
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from processes import ServerProcess
from sqlalchemy import func, select

from attack.client import Answer, Client, address_of
from attack.session import QUIET, Session, operator, tree
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import id_key
from recpolicy.server.db.schema import events, user_ratings
from recpolicy.server.lifespan import DATABASE_URL

# Without online learning: it moves the lists of all users.
SETTINGS = (
    f'[limits]\nrate = 0\n{QUIET}[exploration]\nshare = 0.0\n[online]\nenabled = false\n[users]\nmode = "learn"\n'
)
LEARNERS, SECONDS = 8, 6.0
FIRST_USER = 10_000
HOSTILE: tuple[tuple[dict[str, Any], tuple[int, ...]], ...] = (
    ({"type": "rating", "value": 9.0}, (422,)),
    ({"type": "rating", "value": -1e300}, (422,)),
    ({"type": "rating", "value": "5"}, (422,)),
    ({"type": "rating"}, (422,)),
    ({"type": "rating", "value": 3.0, "item": 10**9}, (422,)),
    ({"type": "rating", "value": 3.0, "event_id": "0" * 32}, (404,)),
    ({"type": "like"}, (200,)),  # no signal of the setting
)


@dataclass
class Learner:
    """A new user: the ratings that the server has acknowledged, and the last list."""

    user: int
    ratings: int = 0
    stale: int = 0
    """Lists that lacked an acknowledged rating."""
    items: list[Any] = field(default_factory=list)


def attack_users(session: Session) -> None:
    """Let new users rate under load, kill the server, and compare; erase others in the middle of their requests."""
    kinds = ["sqlite", "postgresql"] if session.has_postgres() and not session.quick else ["sqlite"]
    for kind in kinds:
        _attack_on(session, kind, 1 if kind == "sqlite" else 2)


def _attack_on(session: Session, kind: str, workers: int) -> None:
    database, words = session.new_database(kind, kind), ("--workers", workers)
    server = session.start(*words, state=kind, settings=SETTINGS, **database)
    learners = [Learner(FIRST_USER + number) for number in range(LEARNERS)]
    asyncio.run(_learn(session, server, learners, 2.0 if session.quick else SECONDS))
    unread = asyncio.run(_unread(server))
    stale = sum(learner.stale for learner in learners)
    session.result.require(not stale or unread, f"{kind}: {stale} lists lacked an acknowledged rating", "lost")
    asyncio.run(_erase_in_the_middle(session, server, FIRST_USER - 1, 1.0 if session.quick else SECONDS))
    for pid in tree(server.process.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server = session.start(*words, state=kind, settings=SETTINGS, **database)
    asyncio.run(_compare(session, server, learners))
    session.check_alive(server)
    left = _rows_of(database[DATABASE_URL], FIRST_USER - 1)
    session.result.require(not left, f"{kind}: {left} rows of the erased user are left")


async def _learn(session: Session, server: ServerProcess, learners: list[Learner], seconds: float) -> None:
    """Rate the first item of each list; after each, the next list must have all acknowledged ratings."""
    until = asyncio.get_running_loop().time() + seconds

    async def rate(learner: Learner) -> None:
        chance = random.Random(learner.user + session.seed)
        async with Client(address_of(server.url), operator(), timeout=60) as client:
            while asyncio.get_running_loop().time() < until or learner.ratings < 3:
                answer = await _list_of(session, client, learner)
                if answer is None:
                    return
                event = {"event_id": answer["event_id"], "type": "rating", "value": float(chance.randint(1, 5))}
                hostile, expected = chance.choice(HOSTILE)
                refused = await client.ask("POST", "/v1/feedback", {"event_id": event["event_id"], **hostile})
                _check(session, refused, expected, f"hostile feedback {hostile}")
                accepted = await client.ask("POST", "/v1/feedback", event)
                if _check(session, accepted, (200,), "a rating"):
                    learner.ratings += 1
            await _list_of(session, client, learner)

    await asyncio.gather(*[rate(learner) for learner in learners])


async def _list_of(session: Session, client: Client, learner: Learner) -> dict[str, Any] | None:
    """Ask for a list of a learner and compare its ratings with the acknowledged ones."""
    answer = await client.ask("POST", "/v1/recommend", {"user": learner.user, "k": 5})
    if not _check(session, answer, (200,), "a list of a learner"):
        return None
    body: dict[str, Any] = answer.json()
    counted = body["posterior"]["ratings"]
    learner.stale += counted < learner.ratings
    session.result.require(counted <= learner.ratings, f"{counted} ratings, but {learner.ratings} were accepted")
    learner.items = [(item["item_id"], item["rating"], item["std"]) for item in body["items"]]
    return body


async def _compare(session: Session, server: ServerProcess, learners: list[Learner]) -> None:
    """Count learners whose list after the restart is not the one of before."""
    async with Client(address_of(server.url), operator(), timeout=60) as client:
        for learner in learners:
            before = learner.items
            await _list_of(session, client, learner)
            same = learner.items == before
            session.result.require(same, f"user {learner.user} has another list after the restart", "lost")


async def _erase_in_the_middle(session: Session, server: ServerProcess, user: int, seconds: float) -> None:
    """Erase a user who asks and rates all the time; each answer is a list, an outcome, or one line."""
    until, learner = asyncio.get_running_loop().time() + seconds, Learner(user)

    async def use() -> None:
        async with Client(address_of(server.url), operator(), timeout=60) as client:
            while asyncio.get_running_loop().time() < until:
                answer = await client.ask("POST", "/v1/recommend", {"user": learner.user, "k": 3})
                if not _check(session, answer, (200,), "a list of an erased user"):
                    return
                body = {"event_id": answer.json()["event_id"], "type": "rating", "value": 4.0}
                _check(
                    session, await client.ask("POST", "/v1/feedback", body), (200, 404), "a rating after the erasure"
                )

    async def erase() -> None:
        async with Client(address_of(server.url), operator(), timeout=60) as client:
            while asyncio.get_running_loop().time() < until:
                answer = await client.ask("POST", "/v1/admin/users/erase", {"user": user})
                _check(session, answer, (200, 503), "an erasure")

    await asyncio.gather(*[use() for _ in range(3)], erase())
    async with Client(address_of(server.url), operator(), timeout=60) as client:  # now nobody asks
        _check(session, await client.ask("POST", "/v1/admin/users/erase", {"user": user}), (200,), "the last erasure")


def _check(session: Session, answer: Answer | None, expected: tuple[int, ...], what: str) -> bool:
    """Count an answer of another status; return True for a success."""
    session.result.tries += 1
    if answer is None or answer.status not in expected:
        wrong = answer is not None and answer.status >= 500
        session.result.count("wrong_5xx" if wrong else "other", f"{what}: {answer and answer.line}")
    return answer is not None and answer.status == 200


async def _unread(server: ServerProcess) -> bool:
    """Return True if the server answered some users without a look at the store."""
    await asyncio.sleep(1.5)  # the gauge is set once a second
    async with Client(address_of(server.url)) as client:
        answer = await client.ask("GET", "/metrics")
    found = re.findall(rb"^recpolicy_users_unread\S* (\S+)$", answer.body if answer else b"", re.MULTILINE)
    return any(float(number) for number in found)


def _rows_of(url: str, user: int) -> int:
    """Return the number of a user's events and ratings in the store."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            counts = [select(func.count()).where(table.c.user_key == id_key(user)) for table in (events, user_ratings)]
            return sum(int(connection.scalar(count) or 0) for count in counts)
    finally:
        engine.dispose()
