"""Ratings that move the posteriors of their users (server/users), in the order of writing.

Feedback writes a row in its own transaction, so the row is there exactly if the feedback was acknowledged. The stamp of
a user tells if rows were added, deleted, or committed late: row numbers are never reused.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from sqlalchemy import Connection, delete, insert, select

from recpolicy.server.db.schema import user_ratings


class Stamp(NamedTuple):
    """The number of a user's rows, and the sum of their numbers; two equal stamps mean the same rows."""

    rows: int = 0
    total: int = 0


class RatingRow(NamedTuple):
    """A rating of a user."""

    seq: int
    item: Any
    """Item id."""
    rating: float


_ADD = insert(user_ratings)


def add_rating(connection: Connection, user_key: str, item: Any, rating: float, time: int) -> None:
    """Write a rating. The caller commits.

    Args:
        connection: The transaction of the feedback.
        user_key: The user, as the database stores ids.
        item: Item id.
        rating: On the scale of the ratings.
        time: Milliseconds since 1970.
    """
    connection.execute(_ADD, {"user_key": user_key, "item": json.dumps(item), "rating": rating, "time": time})


def read_stamps(connection: Connection, user_keys: Sequence[str]) -> dict[str, Stamp]:
    """Return the stamps of the users who have rows."""
    statement = _stamps_statement(len(user_keys), connection.dialect.paramstyle)
    rows = connection.exec_driver_sql(statement, tuple(user_keys))
    return {key: Stamp(count, int(total)) for key, count, total in rows}


@lru_cache
def _stamps_statement(count: int, paramstyle: str) -> str:
    """Return the query of the stamps of `count` users."""
    marks = ", ".join([_mark(paramstyle)] * count)
    return f"SELECT user_key, count(*), sum(seq) FROM user_ratings WHERE user_key IN ({marks}) GROUP BY user_key"


def read_ratings(connection: Connection, user_key: str, after: int) -> list[RatingRow]:
    """Return the rows of a user with numbers above `after`, in their order."""
    mark = _mark(connection.dialect.paramstyle)
    statement = f"SELECT seq, item, rating FROM user_ratings WHERE user_key = {mark} AND seq > {mark} ORDER BY seq"
    rows = connection.exec_driver_sql(statement, (user_key, after))
    return [RatingRow(seq, json.loads(item), rating) for seq, item, rating in rows]


def delete_user_ratings(connection: Connection, user_key: str) -> int:
    """Delete the ratings of a user; return their number. The caller commits."""
    return connection.execute(delete(user_ratings).where(user_ratings.c.user_key == user_key)).rowcount


def old_ratings(time: int, at_once: int) -> Callable[[Connection], Sequence[Any]]:
    """Return a function that returns the numbers of some ratings of before a time (milliseconds since 1970)."""
    old = select(user_ratings.c.seq).where(user_ratings.c.time < time).order_by(user_ratings.c.time).limit(at_once)
    return lambda connection: connection.scalars(old).all()


def delete_ratings(connection: Connection, numbers: Sequence[Any]) -> int:
    """Delete the ratings of these numbers; return how many there were. The caller commits."""
    return connection.execute(delete(user_ratings).where(user_ratings.c.seq.in_(numbers))).rowcount


def _mark(paramstyle: str) -> str:
    return "?" if paramstyle == "qmark" else "%s"
