"""A schedule that is submitted again takes the place of the one before, whatever fails on the way.

Two schedules of one name would train twice and write to one registry at once; that none is left, nobody would notice.
No API changes two schedules by one request, so the order is: make the new one, switched off; switch the old one off;
switch the new one on; delete the old one. What fails before the end is undone, and the error says what is active then.
"""

import logging
from collections.abc import Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """A schedule that is there."""

    id: str
    active: bool
    ours: bool = True
    """Made by recpolicy, as far as the platform can tell (Vertex AI cannot: there the name decides); others are never
    touched."""


class Schedules(Protocol):
    """The schedules of one name in one place; every method is a request that may raise."""

    def there(self) -> list[Schedule]:
        """Those that are there now."""

    def prepare(self) -> str:
        """Make the new one, switched off, and return its id; "" where the platform knows no such thing."""

    def start(self, prepared: str) -> str:
        """Switch on what was prepared ("": make it, switched on) and return its id."""

    def stop(self, id: str) -> None:
        """Switch one off."""

    def resume(self, id: str) -> None:
        """Switch one on again."""

    def delete(self, id: str) -> None:
        """Delete one."""


def put_in_place(schedules: Schedules) -> tuple[str, tuple[str, ...]]:
    """Make the schedule; returns its id and the ids of those that it replaced.

    When a request fails, what it raised goes on, with what is active now as its note (`notes_of`).
    """
    there = schedules.there()
    for one in there:
        if one.active and not one.ours:
            logger.warning("schedule %s of the same name was not made by recpolicy: it stays, active", one.id)
    before = [one for one in there if one.ours]
    active = [one.id for one in before if one.active]
    prepared, stopped = "", []
    try:
        if active:
            prepared = schedules.prepare()
        for id in active:
            stopped.append(id)  # also where the answer to it gets lost
            schedules.stop(id)
        made = schedules.start(prepared)
    except BaseException as error:  # Ctrl-C as well
        if before:
            _take_back(schedules, prepared, stopped, {one.id for one in there})
            error.add_note(_standing(schedules, active))
        raise
    _clear(schedules, [one.id for one in before])
    return made, tuple(one.id for one in before)


def notes_of(error: BaseException) -> str:
    """What was noted about an error, ready to follow its message."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _take_back(schedules: Schedules, prepared: str, stopped: Sequence[str], known: Set[str]) -> None:
    """Back to what was there before, as far as the platform answers."""
    if prepared:
        with suppress(Exception):
            schedules.delete(prepared)
    with suppress(Exception):  # the new one may be on, only the answer was lost: then the old ones stay off
        if any(one.active and one.ours and one.id not in known for one in schedules.there()):
            return
    for id in stopped:
        with suppress(Exception):
            schedules.resume(id)


def _standing(schedules: Schedules, before: Sequence[str]) -> str:
    """What is active, as the platform itself tells it."""
    try:
        now = [one.id for one in schedules.there() if one.ours and one.active]
    except Exception:
        return f"which schedule is active now cannot be told; before it was {_named(before)}"
    if set(now) == set(before):
        return f"nothing is replaced: active is {_named(now)}, as before"
    return f"active now is {_named(now)}, before it was {_named(before)}: submit it again"


def _clear(schedules: Schedules, ids: Sequence[str]) -> None:
    for id in ids:
        try:
            schedules.delete(id)
        except Exception as error:
            logger.warning("schedule %s is switched off, but could not be deleted (%s)", id, type(error).__name__)


def _named(ids: Sequence[str]) -> str:
    return " and ".join(ids) or "none"
