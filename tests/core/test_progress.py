"""Progress: a bar with counts on a terminal, a line now and then elsewhere."""

import io
import sys
import types

from recpolicy.core import progress as progress_module
from recpolicy.core.progress import line_stream, progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_short_work_prints_nothing_without_a_terminal(capsys):
    with progress("training", 10) as bar:
        bar.advance(10, "regret 0.1")
    assert capsys.readouterr() == ("", "")


def test_long_work_prints_a_line_now_and_then_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress_module, "LINE_SECONDS", 10)
    clock = iter([0.0, 4.0, 11.0, 12.0, 21.0])
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: next(clock))
    with progress("training", 4_000, unit="rounds", done=1_000) as bar:
        for _ in range(4):
            bar.advance(500, "regret 0.1")
    assert capsys.readouterr().err.splitlines() == [
        "training: 2,000 of 4,000 rounds, eta 22 s  regret 0.1",
        "training: 3,000 of 4,000 rounds, eta 10 s  regret 0.1",
    ]


def test_lines_go_to_stdout_in_a_notebook_alone(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel", types.ModuleType("ipykernel"))  # imported, but not running
    assert line_stream() is sys.stderr
    kernel_stream = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
    monkeypatch.setattr(sys, "stderr", kernel_stream())
    assert line_stream() is sys.stdout


def test_nothing_is_drawn_when_it_is_not_wanted(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with progress("training", 10, show=False) as bar:
        bar.advance(10)
    assert sys.stderr.getvalue() == ""


def test_bar_goes_to_stderr_with_counts_from_where_it_resumed(capsys):
    with progress("training", 10, unit="rounds", done=4, show=True) as bar:
        bar.advance(3, "regret 0.1")
    out, err = capsys.readouterr()
    assert out == ""
    assert "training" in err
    assert "7/10 rounds" in err
    assert "regret 0.1" in err


def test_bytes_are_shown_as_sizes(capsys):
    with progress("download", 4_000_000, unit="bytes", show=True) as bar:
        bar.advance(1_000_000)
    assert "1.0/4.0 MB" in capsys.readouterr().err


def test_lines_every_so_many_units_go_to_stdout(capsys):
    with progress("training", 100, unit="items", done=20, every=30) as bar:
        for _ in range(8):
            bar.advance(10, "reward 1.5")
    out, err = capsys.readouterr()
    assert [line.split(",")[0] for line in out.splitlines()] == [f"training: {n} of 100 items" for n in (30, 60, 90)]
    assert out.splitlines()[0].endswith("reward 1.5")
    assert err == ""


def test_no_lines_where_none_are_wanted(capsys):
    with progress("training", 100, show=False, every=1) as bar:
        bar.advance(50)
    assert capsys.readouterr() == ("", "")
