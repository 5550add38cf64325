"""Traces from the store: first impressions, active days of two kinds, and days that are not over."""

import numpy as np
import pytest
from event_factory import event
from sqlalchemy import insert

from recpolicy.coldstart.trace_files import read_traces
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import events, feedback
from recpolicy.server.db.trace_export import export_traces, read_traces_of_store

DAY = 86_400_000
TODAY = now_ms() // DAY
FIRST = TODAY - 10


@pytest.fixture
def engine(tmp_path):
    """User 1 sees items 7 and 8 on day 0 and comes back on days 1 and 4; user x sees item 8 on day 3."""
    store = open_store(sqlite_url(tmp_path / "store.sqlite"))
    rows = [(1, (7, 8), 0), (1, (7,), 1), ("x", (8,), 3), (1, ("a",), 4)]
    with store.begin() as connection:
        for number, (user, items, day) in enumerate(rows):
            values = event(user, items, id=f"e{number}", time=(FIRST + day) * DAY + 5)
            connection.execute(insert(events).values(**values._asdict()))
        for number, position, day in ((0, 1, 2), (2, 0, 3), (0, 0, 0)):
            connection.execute(insert(feedback).values(
                event_id=f"e{number}", position=position, type="rating", value=4.0, time=(FIRST + day) * DAY + 9,
                late=False,
            ))  # fmt: skip
    yield store
    store.dispose()


def by_pair(traces):
    """Return the active days by item and start."""
    return {
        (traces.items[item], int(start) - FIRST): (np.flatnonzero(active) + 1).tolist()
        for item, start, active in zip(traces.item, traces.start, traces.active, strict=True)
    }


def test_lists_and_feedback_are_activity(engine):
    traces = read_traces_of_store(engine, horizon=5)
    assert by_pair(traces) == {(7, 0): [1, 2, 4], (8, 0): [1, 2, 4], (8, 3): [], ("a", 4): []}
    assert traces.until == TODAY - 1
    assert sorted(traces.observed_days.tolist()) == [5, 5, 5, 5]
    assert len(traces) == 4


def test_feedback_on_the_item_is_activity_of_the_item(engine):
    assert by_pair(read_traces_of_store(engine, 5, activity="item")) == {
        (7, 0): [], (8, 0): [2], (8, 3): [], ("a", 4): [],
    }  # fmt: skip


def test_some_items_are_read_alone(engine):
    assert by_pair(read_traces_of_store(engine, 5, only=[7, "a"])) == {(7, 0): [1, 2, 4], ("a", 4): []}
    assert by_pair(read_traces_of_store(engine, 5, activity="item", only=[8])) == {(8, 0): [2], (8, 3): []}
    with pytest.raises(DataError, match="no list was shown until"):
        read_traces_of_store(engine, 5, only=[9])


def test_what_is_not_over_is_not_known(engine):
    traces = read_traces_of_store(engine, 5, until=FIRST + 3)
    assert by_pair(traces) == {(7, 0): [1, 2], (8, 0): [1, 2], (8, 3): []}
    assert sorted(traces.observed_days.tolist()) == [0, 3, 3]
    with pytest.raises(ConfigError, match="is not over; the last day that is over is yesterday"):
        read_traces_of_store(engine, 5, until=TODAY)
    with pytest.raises(DataError, match="no list was shown until"):
        read_traces_of_store(engine, 5, until=FIRST - 1)
    with pytest.raises(ConfigError, match="horizon of 0 days"):
        read_traces_of_store(engine, 0)


def test_the_file_is_read_as_it_was_written(engine, tmp_path):
    path = tmp_path / "traces.parquet"
    written = export_traces(engine, path, 5, None, "any")
    again = read_traces(path, 5, until=written.until)
    assert sorted(map(str, again.items)) == sorted(map(str, written.items))
    assert again.dated
    assert again.active.sum() == written.active.sum()
    with pytest.raises(ArtifactError, match="already exists"):
        export_traces(engine, path, 5, None, "any")
