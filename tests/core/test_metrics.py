"""Metric writers: what is written can be read, and a resumed file is the file of an unbroken run."""

from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import DataError
from recpolicy.core.metrics import CsvWriter, InMemoryWriter, TeeWriter, read_csv

ROWS = [(10, {"reward/mean": 3.5, "regret/total": 0.1}), (20, {"reward/mean": 3.25, "regret/total": 1 / 3})]


def write_file(path, rows, keep_until=None):
    with closing(CsvWriter(path, keep_until)) as writer:
        for step, values in rows:
            writer.write(step, values)


def test_rows_come_back_exactly(tmp_path):
    path = tmp_path / "run" / "metrics.csv"
    write_file(path, ROWS)
    assert read_csv(path) == [{"step": step, **values} for step, values in ROWS]


@given(st.floats(allow_nan=False))
def test_any_number_comes_back_exactly(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("metrics") / "metrics.csv"
    write_file(path, [(1, {"x": value})])
    assert read_csv(path) == [{"step": 1, "x": value}]


def test_without_resume_an_old_file_is_replaced(tmp_path):
    path = tmp_path / "metrics.csv"
    write_file(path, ROWS)
    write_file(path, ROWS[1:])
    assert [row["step"] for row in read_csv(path)] == [20]


@pytest.mark.parametrize("cut", ["", "30,1.5,", "30", "3"])
def test_resumed_file_is_that_of_an_unbroken_run(tmp_path, cut):
    # Killed after the checkpoint at 10: a whole row and perhaps a broken one lie beyond it.
    unbroken, resumed = tmp_path / "unbroken.csv", tmp_path / "resumed.csv"
    write_file(unbroken, ROWS)
    write_file(resumed, [ROWS[0], (20, {"reward/mean": 0.0, "regret/total": 0.0})])
    with resumed.open("a") as stream:
        stream.write(cut)
    write_file(resumed, ROWS[1:], keep_until=10)
    assert resumed.read_bytes() == unbroken.read_bytes()


def test_resume_before_the_first_row_keeps_none(tmp_path):
    path = tmp_path / "metrics.csv"
    write_file(path, ROWS)
    write_file(path, [], keep_until=5)
    assert read_csv(path) == []


def test_resume_without_a_file_starts_one(tmp_path):
    write_file(tmp_path / "metrics.csv", ROWS, keep_until=10)
    assert len(read_csv(tmp_path / "metrics.csv")) == 2


def test_value_that_a_later_row_lacks_is_nan(tmp_path):
    path = tmp_path / "metrics.csv"
    write_file(path, [ROWS[0], (20, {"reward/mean": 1.0})])
    assert str(read_csv(path)[1]["regret/total"]) == "nan"


def test_name_that_the_first_row_did_not_have_is_refused(tmp_path):
    with pytest.raises(ValueError, match="loss"):
        write_file(tmp_path / "metrics.csv", [ROWS[0], (20, {"loss": 1.0})])


def test_flushed_rows_are_there_while_the_file_is_open(tmp_path):
    path = tmp_path / "metrics.csv"
    with closing(CsvWriter(path)) as writer:
        writer.write(*ROWS[0])
        writer.flush()
        assert len(read_csv(path)) == 1


@pytest.mark.parametrize("line", ["20,much,0", "20", "20,1,2,3"])
def test_line_that_is_no_row_is_named(tmp_path, line):
    path = tmp_path / "metrics.csv"
    path.write_text(f"step,a,b\n10,1,2\n{line}\n")
    with pytest.raises(DataError, match=r"metrics\.csv:3: not a row of numbers"):
        read_csv(path)


def test_foreign_file_is_not_resumed(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("user,item\nann,7\n")
    with pytest.raises(DataError, match=r"metrics\.csv:2: not a row of numbers"):
        CsvWriter(path, keep_until=10)
    assert path.read_text() == "user,item\nann,7\n"


def test_tee_passes_everything_on():
    first, second = InMemoryWriter(), InMemoryWriter()
    tee = TeeWriter((first, second))
    for step, values in ROWS:
        tee.write(step, values)
    tee.flush()
    assert first.rows == second.rows == [{"step": step, **values} for step, values in ROWS]
