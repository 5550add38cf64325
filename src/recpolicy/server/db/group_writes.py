"""The statements of one commit: the write requests of a group, all at once or each row by itself.

Usually a group is written with few statements. If the database refuses some values of it, the group is written again
with a savepoint for each row, so that one refused row stops no other.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import Connection

from recpolicy.core.errors import DataError, StoreError
from recpolicy.server.db.events import Event, insert_events
from recpolicy.server.db.failures import refuses_values
from recpolicy.server.db.feedback import FeedbackItem, Outcome, RewardRules, apply_feedback
from recpolicy.server.db.spool import RejectedRow, event_line


@dataclass(slots=True)
class WriteRequest:
    """Events or feedback to write, and the future of their outcomes."""

    events: Sequence[Event]
    feedback: Sequence[FeedbackItem]
    time: int
    done: "asyncio.Future[list[Outcome]]"


Result = list[Outcome] | Exception
"""The outcomes of a write request, or its error."""


@dataclass
class GroupResult:
    """The results of the requests of a group, and the rows that the database refused."""

    results: Sequence[Result]
    rejected: Sequence[RejectedRow] = ()


def write_together(connection: Connection, group: Sequence[WriteRequest], rules: RewardRules) -> GroupResult:
    """Write a group with few statements. The caller commits."""
    events = [event for request in group for event in request.events]
    if events:
        insert_events(connection, events)
    return GroupResult(
        [
            apply_feedback(connection, request.feedback, request.time, rules) if request.feedback else []
            for request in group
        ]
    )


def write_separately(connection: Connection, group: Sequence[WriteRequest], rules: RewardRules) -> GroupResult:
    """Write what the database does not refuse. The caller commits."""
    results: list[Result] = []
    rejected: list[RejectedRow] = []
    for request in group:
        refused = insert_separately(connection, request.events)
        rejected += refused
        if refused:
            results.append(StoreError(f"the database refuses an event: {refused[0].reason}"))
            continue
        try:
            with connection.begin_nested():
                results.append(apply_feedback(connection, request.feedback, request.time, rules))
        except Exception as error:
            if not refuses_values(error):
                raise
            results.append(DataError("the database refuses a value of this feedback"))
    return GroupResult(results, rejected)


def insert_separately(connection: Connection, events: Sequence[Event], *, replayed: bool = False) -> list[RejectedRow]:
    """Insert the events that the database does not refuse; return the others. The caller commits."""
    rejected = []
    for event in events:
        try:
            with connection.begin_nested():
                insert_events(connection, [event], replayed=replayed)
        except Exception as error:
            if not refuses_values(error):
                raise
            rejected.append(RejectedRow(type(getattr(error, "orig", error)).__name__, event_line(event)))
    return rejected
