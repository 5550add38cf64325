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
from recpolicy.server.db.rank_events import RankEvent, insert_rank_events
from recpolicy.server.db.rank_signals import Activation, RankSignal, apply_rank_actions
from recpolicy.server.db.spool import AnyEvent, RejectedRow, event_line

AnyFeedback = FeedbackItem | RankSignal | Activation


@dataclass(slots=True)
class WriteRequest:
    """Events or feedback to write, each of one kind, and the future of their outcomes."""

    events: Sequence[AnyEvent]
    feedback: Sequence[AnyFeedback]
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
    outcomes = iter(_insert(connection, [event for request in group for event in request.events]))
    stored = [[next(outcomes) for event in request.events if isinstance(event, RankEvent)] for request in group]
    return GroupResult(
        [
            _apply(connection, request, rules) if request.feedback else of_events
            for request, of_events in zip(group, stored, strict=True)
        ]
    )


def _insert(connection: Connection, events: Sequence[AnyEvent], *, replayed: bool = False) -> list[Outcome]:
    """Insert events of both kinds; return the outcomes of the ranked ones, in order."""
    lists = [event for event in events if isinstance(event, Event)]
    ranks = [event for event in events if isinstance(event, RankEvent)]
    if lists:
        insert_events(connection, lists, replayed=replayed)
    return insert_rank_events(connection, ranks) if ranks else []


def _apply(connection: Connection, request: WriteRequest, rules: RewardRules) -> list[Outcome]:
    """Store the feedback of a request."""
    items = [each for each in request.feedback if isinstance(each, FeedbackItem)]
    if items:
        return apply_feedback(connection, items, request.time, rules)
    actions = [each for each in request.feedback if not isinstance(each, FeedbackItem)]
    return apply_rank_actions(connection, actions, request.time, rules.signal_window_ms, rules.rewards)


def write_separately(connection: Connection, group: Sequence[WriteRequest], rules: RewardRules) -> GroupResult:
    """Write what the database does not refuse. The caller commits."""
    results: list[Result] = []
    rejected: list[RejectedRow] = []
    for request in group:
        stored, refused = _insert_each(connection, request.events)
        rejected += refused
        if refused:
            results.append(StoreError(f"the database refuses an event: {refused[0].reason}"))
            continue
        try:
            with connection.begin_nested():
                results.append(_apply(connection, request, rules) if request.feedback else stored)
        except Exception as error:
            if not refuses_values(error):
                raise
            results.append(DataError("the database refuses a value of this feedback"))
    return GroupResult(results, rejected)


def insert_replayed(connection: Connection, events: Sequence[AnyEvent]) -> None:
    """Insert the events that the database does not have. The caller commits."""
    _insert(connection, events, replayed=True)


def insert_separately(
    connection: Connection, events: Sequence[AnyEvent], *, replayed: bool = False
) -> list[RejectedRow]:
    """Insert the events that the database does not refuse; return the others. The caller commits."""
    return _insert_each(connection, events, replayed=replayed)[1]


def _insert_each(
    connection: Connection, events: Sequence[AnyEvent], *, replayed: bool = False
) -> tuple[list[Outcome], list[RejectedRow]]:
    """Insert each event by itself; return the outcomes of ranked ones, and the events that the database refuses."""
    outcomes: list[Outcome] = []
    rejected: list[RejectedRow] = []
    for event in events:
        try:
            with connection.begin_nested():
                outcomes += _insert(connection, [event], replayed=replayed)
        except Exception as error:
            if not refuses_values(error):
                raise
            rejected.append(RejectedRow(type(getattr(error, "orig", error)).__name__, event_line(event)))
    return outcomes, rejected
