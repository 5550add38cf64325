"""Files of traces: both formats, what is observed when, and faults as one line with file and row."""

from pathlib import Path

import numpy as np
import pytest

from recpolicy.coldstart.filter import ExactFilter
from recpolicy.coldstart.trace_files import parse_day, read_traces, write_traces
from recpolicy.coldstart.traces import Traces, concatenate
from recpolicy.core.errors import ConfigError, DataError

TEXT = """item,start,active_days,count
a,3,1 2 4,1
b,5,,2
a,6,1,1
"""


def read(path: Path, text: str, horizon: int = 4, until: int | str | None = None) -> Traces:
    path.write_text(text, encoding="utf-8")
    return read_traces(path, horizon, until)


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return tmp_path / "traces.csv"


def test_a_file_says_which_days_are_over(csv: Path) -> None:
    traces = read(csv, TEXT, until=8)
    assert traces.items.tolist() == ["a", "b"]
    assert traces.item.tolist() == [0, 1, 0]
    assert traces.observed_days.tolist() == [4, 3, 2]
    assert traces.active.astype(int).tolist() == [[1, 1, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    assert len(traces) == 4
    assert traces.finished.tolist() == [False, False]
    assert read(csv, TEXT, until=9).finished.tolist() == [False, True]
    assert read(csv, TEXT, until=10).finished.tolist() == [True, True]
    assert read(csv, TEXT).until == 7  # the last day in the file: 3 + 4 and 6 + 1
    assert not traces.dated


def test_dates_count_like_days(csv: Path) -> None:
    text = "item,start,active_days\n7,2026-01-05,1 3\n8,2026-01-08,\n"
    traces = read(csv, text, until="2026-01-09")
    assert traces.dated
    assert traces.observed_days.tolist() == [4, 1]
    assert traces.items.tolist() == [7, 8]
    assert traces.format_day(traces.until) == "2026-01-09"
    assert parse_day("2026-01-09") - parse_day("2026-01-05") == 4
    assert parse_day("-3") == -3


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_written_traces_are_read_again(csv: Path, name: str) -> None:
    for text in (TEXT, "item,start,active_days\nx,2026-01-05,2\n"):
        traces = read(csv, text, until=20_460)
        path = csv.with_name(name)
        write_traces(path, traces)
        again = read_traces(path, 4, 20_460)
        for field in ("items", "item", "start", "active", "count"):
            assert getattr(again, field).tolist() == getattr(traces, field).tolist(), field
        assert again.dated == traces.dated


def test_several_files_are_one_whole_and_knowledge_grows_by_days(csv: Path) -> None:
    traces = read(csv, TEXT, until=8)
    other = read(csv, "item,start,active_days\nb,2,4\nc,7,1\n", until=8)
    both = concatenate([traces, other])
    assert both.items.tolist() == ["a", "b", "c"]
    whitening = ExactFilter.from_covariances(np.eye(4), np.eye(4)).whitening
    ids = ["a", "b", "c"]
    parts = traces.statistics(whitening, ids) + other.statistics(whitening, ids)
    np.testing.assert_allclose(both.statistics(whitening).count, parts.count)
    np.testing.assert_allclose(both.statistics(whitening).whitened_sum, parts.whitened_sum)
    assert both.statistics(whitening, ["c", "new"]).count.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0]]
    earlier = both.as_of(5)
    assert earlier.start.tolist() == [3, 2]
    assert earlier.active.astype(int).tolist() == [[1, 1, 0, 0], [0, 0, 0, 0]]
    assert earlier.observed_days.tolist() == [2, 3]


FAULTS = {
    "a,3,2 1,1": "active day 1 follows 2; expected ascending whole numbers",
    "a,3,2 2,1": "active day 2 follows 2; expected ascending",
    "a,3,5,1": "active day 5 is not in 1..4, the days after the start within the horizon",
    "a,3,0,1": "active day 0 is not in 1..4",
    "a,3,-1,1": "active day -1 is not in 1..4",
    "a,3,1.5,1": "active_days holds '1.5'; expected ascending whole numbers",
    "a,3,one,1": "active_days holds 'one'",
    "a,3,1,-2": "count -2; expected a whole number of users, 1 or more",
    "a,3,1,0": "count 0; expected a whole number of users",
    "a,3,1,1.5": "count 1.5; expected",
    "a,3,1,many": "count 'many' is not a whole number of users",
    "a,3.5,1,1": "start 3.5 is not the number of a day",
    "a,soon,1,1": "start 'soon' is not the number of a day, or a date",
    "a,1736035200,1,1": "start 1.73604e+09 is not the number of a day",
    ",3,1,1": "item id is missing",
    "a,9,1,1": "a day of this trace is 2 after 8, the last day that is over",
    "a,9,,1": "a day of this trace is 1 after 8",
}


@pytest.mark.parametrize("line", FAULTS)
def test_a_faulty_trace_is_one_line_with_its_place(csv: Path, line: str) -> None:
    with pytest.raises(DataError) as caught:
        read(csv, TEXT + line + "\n", until=8)
    message = str(caught.value)
    assert message.startswith(f"{csv}:5: ")
    assert FAULTS[line] in message
    assert "\n" not in message


def test_faulty_files_and_options_are_one_line(csv: Path) -> None:
    with pytest.raises(DataError, match="no columns 'start' and 'active_days'; found item, day"):
        read(csv, "item,day\na,1\n")
    with pytest.raises(DataError, match="no traces"):
        read(csv, "item,start,active_days\n")
    with pytest.raises(DataError, match="no such file"):
        read_traces(csv.with_name("none.csv"), 4)
    with pytest.raises(ConfigError, match="horizon of 0 days; expected 1 to 366"):
        read(csv, TEXT, horizon=0)
    with pytest.raises(ConfigError, match="'later' is not a day"):
        read(csv, TEXT, until="later")
    cut = csv.with_name("cut.parquet")
    write_traces(cut, read(csv, TEXT))
    cut.write_bytes(cut.read_bytes()[:-40])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        read_traces(cut, 4)
    half = TEXT + "a,3"
    with pytest.raises(DataError, match=r"traces.csv:5: 2 fields"):
        read(csv, half)
    dated = read(csv, "item,start,active_days\na,2026-01-05,1\n")
    with pytest.raises(DataError, match="traces with dates and traces with numbered days"):
        concatenate([dated, read(csv, TEXT)])


def test_unfinished_items_are_named(csv: Path) -> None:
    traces = read(csv, TEXT, until=9)
    with pytest.raises(DataError, match=r"item 'a' is not finished: its trace from 6 ends on 10, after 9"):
        traces.moments()
    assert traces.select(traces.finished).items.tolist() == ["b"]
    moments = traces.select(traces.finished).moments()
    assert moments.count.tolist() == [2]
    assert moments.mean.tolist() == [[0, 0, 0, 0]]
