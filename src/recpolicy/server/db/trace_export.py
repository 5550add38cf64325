"""Traces of items from the store: on which days users were active after an item was shown to them.

A trace starts on the day (UTC) on which an item first was in a list of a user. The user is active on a later day with
any list or feedback on that day (`any`), or with feedback on the item (`item`). Memory grows with the number of shown
items: about 200 bytes and two for each day of the horizon. Ranks and strategies have no items and do not count.
"""

import json
from array import array
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, select

from recpolicy.coldstart.trace_files import write_traces
from recpolicy.coldstart.traces import MAX_DAYS, Traces
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.memory import check_memory
from recpolicy.data.feature_columns import object_array
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import events, feedback

Activity = Literal["any", "item"]
_DAY_MS = 86_400_000
_ROWS_AT_ONCE = 4_000
Ints = NDArray[np.int64]


class _Codes:
    """Numbers of texts, in the order of their first occurrence."""

    def __init__(self) -> None:
        self._code: dict[str, int] = {}

    def __call__(self, text: str) -> int:
        return self._code.setdefault(text, len(self._code))

    def texts(self) -> list[str]:
        return list(self._code)


def read_traces_of_store(
    engine: Engine, horizon: int, until: int | None = None, activity: Activity = "any",
    only: Collection[Any] | None = None,
) -> Traces:  # fmt: skip
    """Return the traces of all items that lists have shown, or of some of them.

    Args:
        engine: The store.
        horizon: Days J of a trace.
        until: Last day that counts, as days since 1970; None is yesterday, the last day that is over.
        activity: `any` counts lists and feedback of the user, `item` feedback on the item only.
        only: Ids of the items; None: all items.

    Raises:
        ConfigError: The horizon is out of range, or `until` is not over yet.
        DataError: No list with one of the items was shown before the end of `until`.
    """
    if not 1 <= horizon <= MAX_DAYS:
        raise ConfigError(f"horizon of {horizon} days; expected 1 to {MAX_DAYS}")
    yesterday = now_ms() // _DAY_MS - 1
    last = yesterday if until is None else until
    if last > yesterday:
        raise ConfigError(f"{np.datetime64(last, 'D')} is not over; the last day that is over is yesterday, in UTC")
    users, items = _Codes(), _Codes()
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        wanted = None if only is None else frozenset(only)
        shown, active = _read(connection, users, items, (last + 1) * _DAY_MS, activity, wanted)
    if not len(shown):
        raise DataError(f"no list was shown until {np.datetime64(last, 'D')}; expected events of a policy of ratings")
    return _traces(shown, active, items, horizon, last, activity)


def export_traces(engine: Engine, path: Path, horizon: int, until: int | None, activity: Activity) -> Traces:
    """Write the traces to a new CSV or Parquet file, atomically, and return them; raises as `read_traces_of_store`.

    Raises ArtifactError, too, if the file exists.
    """
    if path.exists():
        raise ArtifactError(f"{path}: already exists; choose another name")
    traces = read_traces_of_store(engine, horizon, until, activity)
    write_traces(path, traces)
    return traces


def _read(
    connection: Connection, users: _Codes, items: _Codes, end: int, activity: Activity, only: frozenset[Any] | None
) -> tuple[Ints, Ints]:
    """Return impressions [N, 3] (user, item, day) and active days [M, 3]; the item of `any` activity is 0."""
    shown, active = array("q"), array("q")
    query = select(events.c.user_key, events.c.time, events.c.item_ids).where(events.c.time < end)
    for row in _rows(connection, query.order_by(events.c.seq)):
        user, day = users(row.user_key), row.time // _DAY_MS
        for item in json.loads(row.item_ids):
            if only is not None and item not in only:
                continue
            shown.extend((user, items(json.dumps(item)), day))
        if activity == "any":
            active.extend((user, 0, day))
    joined = feedback.join(events, events.c.id == feedback.c.event_id)
    columns = (events.c.user_key, events.c.item_ids, feedback.c.position, feedback.c.time)
    for row in _rows(connection, select(*columns).select_from(joined).where(feedback.c.time < end)):
        code = 0
        if activity == "item":
            item = json.loads(row.item_ids)[row.position]
            if only is not None and item not in only:
                continue
            code = items(json.dumps(item))
        active.extend((users(row.user_key), code, row.time // _DAY_MS))
    return _table(shown), _table(active)


def _table(values: "array[int]") -> Ints:
    return np.frombuffer(values, np.int64).reshape(-1, 3) if values else np.empty((0, 3), np.int64)


def _rows(connection: Connection, query: Any) -> Iterator[Any]:
    with connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query) as result:
        yield from result


def _traces(shown: Ints, active: Ints, items: _Codes, horizon: int, last: int, activity: Activity) -> Traces:
    """Return one trace for each user and item, from the first day of both on."""
    order = np.lexsort(shown.T[::-1])
    shown = shown[order]
    first = np.append(True, (shown[1:, :2] != shown[:-1, :2]).any(axis=1))
    user, item, start = shown[first].T
    active = np.unique(active, axis=0)
    low = int(min(start.min(), active[:, 2].min(initial=last)))
    span = last - low + horizon + 2
    rows = item if activity == "item" else np.zeros_like(item)
    wide = int(max(item.max(), active[:, 1].max(initial=0))) + 1
    known = (active[:, 0] * wide + active[:, 1]) * span + (active[:, 2] - low)  # ascending
    of_start = (user * wide + rows) * span + (start - low)
    needed = len(start) * (2 * horizon + 64)
    check_memory(
        needed, f"{len(start):,} traces of {horizon} days", "export a shorter horizon, or until an earlier day"
    )
    came = np.zeros((len(start), horizon), bool)
    for day in range(1, horizon + 1) if len(known) else ():
        wanted = of_start + day
        place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
        came[:, day - 1] = (known[place] == wanted) & (start + day <= last)
    used, row = np.unique(item, return_inverse=True)
    ids = [json.loads(text) for text in items.texts()]
    return Traces(
        object_array([ids[code] for code in used]), row.astype(np.int64), start, came,
        np.ones(len(start), np.int64), last, dated=True,
    )  # fmt: skip
